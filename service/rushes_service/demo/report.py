"""What a demo shows for itself at the end: the contact sheet and the table of what sampling cost."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.table import Table

from rushes.jobs import JobState, Prompt, SampleResult
from rushes_service.demo.contact_sheet import Column, Row, contact_sheet
from rushes_service.demo.verify import read_frames


@dataclass(frozen=True)
class TrainerReport:
    """What the trainer measured in its own process, in seconds."""

    training_s: float
    held_up_s: float
    submits_s: tuple[float, ...]

    @classmethod
    def read(cls, path: Path) -> TrainerReport:
        """The report a trainer wrote."""
        fields = json.loads(path.read_text())
        return cls(fields["training_s"], fields["held_up_s"], tuple(fields["submits_s"]))


def draw_sheet(results: Sequence[SampleResult], path: Path) -> None:
    """Write the contact sheet of `results` to `path`; what failed stays empty."""
    steps = sorted({result.step for result in results})
    prompts = {result.prompt_index: result.prompt for result in results}
    frames = {
        (result.prompt_index, result.step): read_frames(Path(result.path))
        for result in results
        if result.state is JobState.DONE and result.path
    }
    rows = [
        Row(prompt.prompt, facts(prompt), [frames.get((index, step), []) for step in steps])
        for index, prompt in sorted(prompts.items())
    ]
    columns = [Column("base model", "no LoRA", base=True) if step == 0 else Column(f"step {step}") for step in steps]
    footer = (
        f"Rushes {version('rushes')}  ·  wan2.1-t2v, a tiny model with random weights: its pictures mean nothing, "
        "but every checkpoint changes them  ·  same seed along each row"
    )
    contact_sheet(rows, columns, title="Rushes of a LoRA in training", footer=footer).save(path, optimize=True)


def facts(prompt: Prompt) -> str:
    """Size, length and seed of a prompt in a few words."""
    frames = "still" if prompt.frame_count == 1 else f"{prompt.frame_count} frames"
    return f"{frames} · {prompt.width}x{prompt.height} · seed {prompt.seed}"


def cost_table(report: TrainerReport, results: Sequence[SampleResult]) -> Table:
    """How long sampling held the trainer up, beside what it would have cost inside the trainer."""
    in_process = sum(result.seconds or 0.0 for result in results)
    submits = [1000 * seconds for seconds in report.submits_s]
    table = Table(box=SIMPLE_HEAD, title="What sampling cost the trainer", title_justify="left", title_style="bold")
    table.add_column("")
    table.add_column("in all", justify="right")
    table.add_column("per checkpoint", justify="right")
    table.add_column("", style="dim")
    count = max(len(submits), 1)
    table.add_row(
        "with Rushes",
        f"{1000 * report.held_up_s:,.1f} ms",
        f"{sum(submits) / count:,.1f} ms",
        f"slowest hand-off {max(submits, default=0.0):.1f} ms, each with the LoRA file written",
    )
    table.add_row(
        "inside the trainer",
        f"{1000 * in_process:,.0f} ms",
        f"{1000 * in_process / count:,.0f} ms",
        "the worker's own time for the same samples",
    )
    table.add_row("training itself", f"{1000 * report.training_s:,.0f} ms", "", "wall time of the training loop")
    return table
