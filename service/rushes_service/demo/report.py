"""The summary of a demo: the contact sheet and the table of costs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table

from rushes.wire.jobs import Prompt
from rushes.wire.results import JobState, SampleResult
from rushes_service.demo.verify import read_frames
from rushes_service.sheets.contact_sheet import Column, Row, contact_sheet
from rushes_service.sheets.report import Table as ReportTable


@dataclass(frozen=True)
class TrainerReport:
    """Measurements of the trainer in its own process, in seconds."""

    training_s: float
    held_up_s: float
    submits_s: tuple[float, ...]

    @classmethod
    def read(cls, path: Path) -> TrainerReport:
        """The report a trainer wrote."""
        fields = json.loads(path.read_text())
        return cls(fields["training_s"], fields["held_up_s"], tuple(fields["submits_s"]))


def draw_sheet(results: Sequence[SampleResult], path: Path) -> None:
    """Write the contact sheet of `results` to `path`; failed samples stay empty."""
    steps = sorted({result.step for result in results})
    prompts = {result.prompt_index: result.prompt for result in results}
    frames = {(result.prompt_index, result.step): frames_of(result) for result in results}
    rows = [
        Row(prompt.prompt, facts(prompt), [frames.get((index, step), []) for step in steps])
        for index, prompt in sorted(prompts.items())
    ]
    columns = [Column("base model", "no LoRA", base=True) if step == 0 else Column(f"step {step}") for step in steps]
    footer = (
        f"Rushes {version('rushes')}  ·  wan2.1-t2v, a tiny model of a world of coloured shapes; "
        "the LoRA teaches it the word zorp  ·  same seed along each row"
    )
    contact_sheet(rows, columns, title="Rushes of a LoRA in training", footer=footer).save(path, optimize=True)


def frames_of(result: SampleResult) -> list[np.ndarray]:
    """The frames of a sample; none if it failed or its file is broken, which `verify` reports."""
    if result.state is not JobState.DONE or result.path is None:
        return []
    try:
        return read_frames(Path(result.path))
    except OSError:
        return []


def facts(prompt: Prompt) -> str:
    """Size, length and seed of a prompt, in short."""
    frames = "still" if prompt.frame_count == 1 else f"{prompt.frame_count} frames"
    return f"{frames} · {prompt.width}x{prompt.height} · seed {prompt.seed}"


def sampling_seconds(result: SampleResult) -> float:
    """Time the worker spent on a sample, less loading the model, which a trainer has loaded anyway."""
    if result.seconds is None or result.receipt is None:
        return 0.0
    stages = json.loads(Path(result.receipt).read_text())["seconds"]
    return result.seconds - stages.get("load", 0.0)


def cost_table(report: TrainerReport, results: Sequence[SampleResult]) -> Table:
    """How long sampling delayed the trainer, compared with sampling inside the trainer."""
    in_process = sum(sampling_seconds(result) for result in results)
    checkpoints = max(len(report.submits_s), 1)
    table = Table(
        box=SIMPLE_HEAD,
        title=f"How long sampling {checkpoints} checkpoints held the trainer up",
        title_justify="left",
        title_style="bold",
        caption="With Rushes: measured in the trainer, the LoRA files written included.\n"
        "Inside the trainer: the worker's own time for the same samples, model loading left out.",
        caption_justify="left",
    )
    for heading in ("", "in all", "per checkpoint", "longest"):
        table.add_column(heading, justify="right" if heading else "left")
    table.add_row(
        "with Rushes",
        milliseconds(report.held_up_s),
        milliseconds(sum(report.submits_s) / checkpoints),
        milliseconds(max(report.submits_s, default=0.0)),
    )
    table.add_row("inside the trainer", milliseconds(in_process), milliseconds(in_process / checkpoints), "")
    table.add_row("the training itself", milliseconds(report.training_s - report.held_up_s), "", "")
    return table


def as_rich(found: ReportTable) -> Table:
    """A table of the report for the terminal, its marked rows in green."""
    table = Table(
        box=SIMPLE_HEAD,
        title=found.title,
        title_justify="left",
        title_style="bold",
        caption=found.note,
        caption_justify="left",
    )
    for heading in found.headings:
        table.add_column(heading)
    for index, row in enumerate(found.rows):
        table.add_row(*row, style="green" if index in found.marked else None)
    return table


def milliseconds(seconds: float) -> str:
    """For people: `3.9 ms`, `13,741 ms`."""
    return f"{1000 * seconds:,.1f} ms" if seconds < 0.1 else f"{1000 * seconds:,.0f} ms"
