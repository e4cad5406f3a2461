"""The grid: prompts down, checkpoints across, the base model as column zero.

A *row* is one prompt with its options, drafts of it apart, a *column* one checkpoint at one strength. What several
samples share a place (the same prompt asked twice with seeds of their own, say) is a stack: the newest lies on top.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from pydantic import ConfigDict, Field

from rushes.wire.base import FrozenModel, digest
from rushes.wire.jobs import BASE_MODEL
from rushes.wire.results import JobState
from rushes_service.catalogue.entries import Entry

BASE = "base"
"""Key of the base model's column."""

DEFAULT_SIZE = 256
"""Width and height in pixels of a sample without a size in its prompt, until its result is known."""


class Column(FrozenModel):
    """One checkpoint at one strength."""

    key: str
    base: bool = False
    step: int = 0
    epoch: int | None = None
    strength: float = 1.0
    fingerprint: str = BASE_MODEL
    name: str = Field(
        default="", description="Label of the checkpoint, else its file's name where the trainer wrote it."
    )
    label: str = Field(default="", description="What weights of one step are told apart by: `ema`, say.")
    loras: tuple[str, ...] = Field(default=(), description="Other LoRAs that were merged beside it, with strengths.")


class Row(FrozenModel):
    """One prompt with its options. `seed` is null where each checkpoint has a seed of its own."""

    key: str
    prompt: str
    index: int = 0
    seed: int | None = None
    width: int
    height: int
    frame_count: int
    options: dict[str, Any] = Field(default={}, description="Every other option the prompt has.")
    drift_limit: float | None = Field(default=None, description="Makes it a control: the largest drift allowed.")
    draft: float | None = Field(default=None, description="Its samples are drafts of this threshold: approximate.")


class Cell(FrozenModel):
    """One sample in its place. `version` changes when its picture does."""

    id: str
    row: str
    column: str
    state: JobState
    cancelling: bool = False
    stage: str = ""
    step: int = 0
    total: int = 0
    seed: int | None = None
    video: bool = False
    media: bool = False
    version: str = ""
    width: int | None = None
    height: int | None = None
    frame_count: int | None = None
    fps: float | None = None
    health: tuple[str, ...] = ()
    drift: float | None = Field(default=None, description="From the base model, in standard deviations of its latents.")
    drift_pixels: float | None = Field(default=None, description="From the base model, in 8-bit levels.")
    scores: dict[str, float] = Field(default={}, description="Numbers of the worker's scores.")
    noise: str | None = Field(
        default=None, description="What drew its noise: `cpu` or a GPU's name. One seed is other noise on each kind."
    )
    error: str | None = None
    code: str | None = None
    created_at: float = 0.0
    favourite: bool = False
    draft: float | None = Field(default=None, description="The threshold of a draft, which is approximate.")


EXAMPLE_COLUMNS = [{"key": BASE, "base": True, "strength": 0.0}, {"key": "100-9a7d4c3f-1", "step": 100, "name": "cat"}]
EXAMPLE_ROW = {"key": "4fd1c7a2", "prompt": "a cat", "seed": 42, "width": 480, "height": 272, "frame_count": 17}
EXAMPLE_CELL = {"id": "5b8c1f0e9a7d4c3f8e2a6b1d0c9f7e4a", "row": "4fd1c7a2", "column": BASE, "state": "done"}
EXAMPLE_GRID = {
    "run": "cat",
    "position": "1767225640000-0",
    "truncated": False,
    "columns": EXAMPLE_COLUMNS,
    "rows": [EXAMPLE_ROW],
    "cells": [EXAMPLE_CELL],
}


class Grid(FrozenModel):
    """All of a run that the page shows. Follow `/v1/events?after=<position>` to keep it true."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE_GRID]})

    run: str
    position: str = Field(description="Id of the newest event when this was read.")
    truncated: bool = Field(description="True when there are more samples than a grid shows: the oldest are left out.")
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    cells: tuple[Cell, ...] = Field(description="Newest first.")


def arrange(
    run: str, entries: Sequence[Entry], favourites: Collection[str], *, position: str = "0-0", truncated: bool = False
) -> Grid:
    """Find the rows, the columns, and each sample's place. `entries` come newest first."""
    column_at = {entry.id: column_of(entry.job) for entry in entries}
    row_of = place_in_rows(entries, column_at)
    columns: dict[str, Column] = {}
    rows: dict[str, Row] = {}
    sized: set[str] = set()
    cells: list[Cell] = []
    for entry in entries:
        column = column_at[entry.id]
        columns.setdefault(column.key, column)
        key, seed = row_of[entry.id]
        finished = bool(entry.result.get("width"))
        if key not in rows or (finished and key not in sized):
            rows[key] = row(key, seed, entry)
        if finished:
            sized.add(key)
        cells.append(cell(entry, key, column.key, entry.id in favourites))
    return Grid(
        run=run,
        position=position,
        truncated=truncated,
        columns=tuple(sorted(columns.values(), key=column_order)),
        rows=tuple(sorted(rows.values(), key=row_order)),
        cells=tuple(cells),
    )


def column_order(column: Column) -> tuple[Any, ...]:
    """The base model first, then by step; the strengths of a checkpoint side by side."""
    return not column.base, column.step, column.fingerprint, column.strength


def row_order(row: Row) -> tuple[Any, ...]:
    """By place in the prompt file, then drafts behind what is exact."""
    return row.index, row.prompt, row.seed or 0, row.draft or 0.0, row.key


def column_of(job: Mapping[str, Any]) -> Column:
    """The column of a sample. Strength 0 is the base model, whatever checkpoint was named."""
    checkpoint = job.get("checkpoint") or {}
    strength = job.get("prompt", {}).get("lora_multiplier")
    strength = 1.0 if strength is None else float(strength)
    loras = job.get("loras") or []
    others = f"-{digest(loras, 8)}" if loras else ""
    names = tuple(f"{file_name(lora['path'])} x {lora.get('strength', 1.0):g}" for lora in loras)
    if not checkpoint or strength == 0:
        return Column(key=BASE + others, base=True, strength=0.0, loras=names)
    step = job.get("step", 0)
    fingerprint = checkpoint.get("fingerprint", "")
    return Column(
        key=f"{step}-{fingerprint[:12]}-{strength:g}{others}",
        step=step,
        epoch=job.get("epoch"),
        strength=strength,
        fingerprint=fingerprint,
        label=job.get("label") or "",
        name=job.get("label") or file_name(checkpoint.get("source") or checkpoint.get("path") or ""),
        loras=names,
    )


def file_name(path: str) -> str:
    """The last part of a path."""
    return path.rstrip("/").rsplit("/", 1)[-1]


def content_of(job: Mapping[str, Any]) -> dict[str, Any]:
    """A prompt without seed and strength, which differ between samples of one row."""
    prompt = job.get("prompt") or {"prompt": "(a job that this version cannot read)"}
    return {name: value for name, value in prompt.items() if name not in ("seed", "lora_multiplier", "drift_limit")}


def row_content(job: Mapping[str, Any]) -> dict[str, Any]:
    """What samples of one row share. An exact sample and a draft of it are not compared."""
    draft = job.get("draft")
    return content_of(job) if draft is None else {**content_of(job), "draft": draft}


def place_in_rows(entries: Sequence[Entry], column_at: Mapping[str, Column]) -> dict[str, tuple[str, int | None]]:
    """Row key and seed of each sample.

    A seed that several checkpoints share has a row of its own: that is a comparison somebody asked for. Seeds that
    occur once were drawn, and would each make a row with a single picture; together they are one row.
    """
    content = {entry.id: digest(row_content(entry.job)) for entry in entries}
    columns: dict[str, dict[int | None, set[str]]] = defaultdict(lambda: defaultdict(set))
    for entry in entries:
        columns[content[entry.id]][seed_of(entry)].add(column_at[entry.id].key)
    places: dict[str, tuple[str, int | None]] = {}
    for entry in entries:
        key, seed = content[entry.id], seed_of(entry)
        seeds = columns[key]
        own_row = len(seeds) == 1 or len(seeds[seed]) > 1
        places[entry.id] = (f"{key}-{seed}", seed) if own_row else (key, None)
    return places


def seed_of(entry: Entry) -> int | None:
    """The seed a sample was or will be made with."""
    seed = entry.result.get("seed")
    return entry.job.get("prompt", {}).get("seed") if seed is None else seed


def row(key: str, seed: int | None, entry: Entry) -> Row:
    """A row as its first sample, or its first finished one, describes it."""
    prompt, result = content_of(entry.job), entry.result
    plain = ("prompt", "width", "height", "frame_count")
    return Row(
        key=key,
        prompt=prompt.get("prompt", ""),
        index=entry.job.get("prompt_index", 0),
        seed=seed,
        width=result.get("width") or prompt.get("width") or DEFAULT_SIZE,
        height=result.get("height") or prompt.get("height") or DEFAULT_SIZE,
        frame_count=result.get("frame_count") or prompt.get("frame_count") or 1,
        options={name: value for name, value in prompt.items() if name not in plain},
        drift_limit=(entry.job.get("prompt") or {}).get("drift_limit"),
        draft=entry.job.get("draft"),
    )


def cell(entry: Entry, row_key: str, column_key: str, favourite: bool) -> Cell:
    """A sample as the grid shows it."""
    result = entry.result
    error = result.get("error") or {}
    drift = result.get("drift") or {}
    return Cell(
        id=entry.id,
        row=row_key,
        column=column_key,
        state=JobState(entry.state),
        cancelling=entry.cancelling,
        stage=entry.stage,
        step=entry.step,
        total=entry.total,
        seed=seed_of(entry),
        video=result.get("media_type") == "video/mp4",
        media=bool(result.get("path")),
        version=version_of(entry),
        width=result.get("width"),
        height=result.get("height"),
        frame_count=result.get("frame_count"),
        fps=result.get("fps"),
        health=tuple(result.get("health", ())),
        drift=drift.get("latents"),
        drift_pixels=drift.get("pixels"),
        scores=result.get("scores") or {},
        noise=result.get("noise"),
        error=error.get("message"),
        code=error.get("code"),
        created_at=entry.created_at,
        favourite=favourite,
        draft=entry.job.get("draft"),
    )


def version_of(entry: Entry) -> str:
    """Milliseconds since 1970 at which a sample ended: the first half of the id of its last event."""
    # Kept as seconds with six decimals: half of the last one keeps a whole millisecond from being rounded down.
    return str(int((entry.finished_at or 0.0) * 1000 + 0.0005))
