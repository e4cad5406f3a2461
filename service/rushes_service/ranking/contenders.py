"""What is ranked: the columns of one or more grids, each a checkpoint at one strength, with a sample per row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rushes.checkpoints.store import is_url
from rushes.client.client import Client
from rushes.errors import JobNotFound
from rushes.wire.results import JobState
from rushes_service.catalogue import Column, Grid, arrange, read_entries
from rushes_service.catalogue.checkpoints import existing
from rushes_service.catalogue.entries import Entry
from rushes_service.media.naming import SAMPLE_DIR

MAX_CONTENDERS = 60
"""An estimate takes time in the third power of their number; of more, some spread evenly over training are ranked."""


@dataclass(frozen=True)
class Contender:
    """A checkpoint at one strength. `samples` are the ids of its finished samples by row (prompt and seed)."""

    key: str
    run: str
    column: Column
    samples: Mapping[str, str] = field(default_factory=dict)
    checkpoint: Mapping[str, Any] = field(default_factory=dict)
    model: Mapping[str, Any] = field(default_factory=dict)
    output_dir: str = ""

    @property
    def title(self) -> str:
        """`step 400`, `step 400 x 0.8`, `base model`."""
        if self.column.base:
            return "base model"
        parts = [f"step {self.column.step}"]
        if self.column.strength != 1:
            parts.append(f"x {self.column.strength:g}")
        parts += [self.column.label] if self.column.label else []
        return " ".join([*parts, *(f"+ {name}" for name in self.column.loras)])

    @property
    def path(self) -> str | None:
        """The checkpoint's file: where it is now, else where it was when it was sampled; None for the base model."""
        if not self.checkpoint:
            return None
        found = existing(dict(self.checkpoint))
        return found or str(self.checkpoint.get("source") or self.checkpoint.get("path") or "") or None


@dataclass(frozen=True)
class Field:
    """The contenders of some runs, the prompts of the rows, and the directories of their samples."""

    runs: tuple[str, ...]
    contenders: tuple[Contender, ...]
    prompts: Mapping[str, str]
    directories: tuple[Path, ...]
    left_out: int = 0
    """Contenders beyond `MAX_CONTENDERS`."""


def read_field(client: Client, runs: Sequence[str]) -> Field:
    """The contenders of `runs`, with finished samples only.

    Raises:
        JobNotFound: no samples of one of the runs are kept.
        QueueUnavailable: Redis cannot be reached.
    """
    found: dict[str, list[Entry]] = {}
    for run in runs:
        found[run] = list(read_entries(client, run))
        if not found[run]:
            raise JobNotFound(f"no samples of a run {run!r} are kept; `rushes jobs list` shows what there is")
    return field_of(found)


def field_of(runs: Mapping[str, Sequence[Entry]]) -> Field:
    """The contenders of some runs, given their samples, newest first.

    Drafts are left out: they would be judged for what is approximate in them.
    """
    contenders: list[Contender] = []
    prompts: dict[str, str] = {}
    directories: dict[Path, None] = {}
    for run, entries in runs.items():
        done = [entry for entry in entries if is_ranked(entry)]
        directories.update(dict.fromkeys(directories_of(done)))
        grid = arrange(run, done, ())
        prompts.update((row.key, row.prompt) for row in grid.rows)
        contenders += contenders_of(grid, done, several=len(runs) > 1)
    kept = spread(contenders, MAX_CONTENDERS)
    return Field(tuple(runs), tuple(kept), prompts, tuple(directories), len(contenders) - len(kept))


def is_ranked(entry: Entry) -> bool:
    """True for a finished sample with a file that is no draft."""
    finished = entry.state == JobState.DONE.value and bool(entry.result.get("path"))
    return finished and entry.job.get("draft") is None


def contenders_of(grid: Grid, entries: Sequence[Entry], *, several: bool) -> list[Contender]:
    """The contenders of one run.

    Samples are compared with those of their own seed, also in rows whose seeds differ: else the seed would be judged.
    """
    places = {cell.id: cell for cell in grid.cells}
    samples: dict[str, dict[str, str]] = {column.key: {} for column in grid.columns}
    jobs: dict[str, Mapping[str, Any]] = {}
    for entry in reversed(entries):  # the newest last: it replaces older ones
        cell = places[entry.id]
        samples[cell.column][f"{cell.row.partition('-')[0]}-{cell.seed}"] = entry.id
        jobs[cell.column] = entry.job
    return [
        Contender(
            key=f"{grid.run}:{column.key}" if several else column.key,
            run=grid.run,
            column=column,
            samples=samples[column.key],
            checkpoint={} if column.base else jobs[column.key].get("checkpoint") or {},
            model=jobs[column.key].get("model") or {},
            output_dir=str(jobs[column.key].get("output_dir", "")),
        )
        for column in grid.columns
    ]


def directories_of(entries: Sequence[Entry]) -> list[Path]:
    """Local directories of samples, each once."""
    found = (
        Path(str(entry.job.get("output_dir", ""))) / SAMPLE_DIR
        for entry in entries
        if not is_url(str(entry.job.get("output_dir", "")))
    )
    return [directory for directory in dict.fromkeys(found) if directory.is_dir()]


def spread(contenders: list[Contender], most: int) -> list[Contender]:
    """At most `most` contenders: base models, the last one, and others evenly between."""
    if len(contenders) <= most:
        return contenders
    base = [contender for contender in contenders if contender.column.base]
    others = [contender for contender in contenders if not contender.column.base]
    room = max(1, most - len(base))
    picked = {round((place + 1) * len(others) / room) - 1 for place in range(room)}
    return base + [contender for index, contender in enumerate(others) if index in picked]
