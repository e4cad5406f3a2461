"""The verdict on the demo's samples, per checkpoint: does the LoRA draw its concept, and is the rest unharmed?"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table

from rushes.wire.results import JobState, SampleResult
from rushes_service.demo.checker import Reading, read_clip
from rushes_service.demo.options import SHOWN, Shown
from rushes_service.demo.verify import read_frames
from rushes_service.sheets.report import Table as ReportTable


@dataclass(frozen=True)
class Judgement:
    """One checkpoint as the checker sees it.

    `accuracy` is the share of prompts whose sample shows what a finished LoRA draws; `learned` and `control` are mean
    drifts in 8-bit levels, None where they were not measured.
    """

    step: int
    accuracy: float
    learned: float | None
    control: float | None


def judge(results: Sequence[SampleResult]) -> list[Judgement]:
    """Every checkpoint, the base model (step 0) first."""
    found = []
    for step in sorted({result.step for result in results}):
        mine = [result_of(results, step, index) for index in range(len(SHOWN))]
        right = [is_right(result, shown) for result, shown in zip(mine, SHOWN, strict=True)]
        drifts = [
            mean([drift_of(result) for result, shown in zip(mine, SHOWN, strict=True) if shown.control is control])
            for control in (False, True)
        ]
        found.append(Judgement(step, sum(right) / len(right), *drifts))
    return found


def best_of(judgements: Sequence[Judgement]) -> Judgement | None:
    """The checkpoint to keep: the most accurate one; among equals that whose control has drifted least."""
    trained = [judgement for judgement in judgements if judgement.step]
    return max(trained, key=lambda found: (found.accuracy, -(found.control or 0.0)), default=None)


def is_right(result: SampleResult | None, shown: Shown) -> bool:
    """True if a sample shows what a finished LoRA draws for its prompt."""
    if result is None or result.state is not JobState.DONE or result.path is None:
        return False
    with contextlib.suppress(OSError):
        return is_as_asked(read_clip(np.stack(read_frames(Path(result.path)))), shown)
    return False


def drift_of(result: SampleResult | None) -> float | None:
    """The drift of a sample in 8-bit levels of its pixels."""
    return result.drift.pixels if result is not None and result.drift is not None else None


def mean(values: Sequence[float | None]) -> float | None:
    """The mean of the values that are known."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def judgement_table(judgements: Sequence[Judgement], best: Judgement | None) -> ReportTable:
    """Accuracy and drift of each checkpoint, for the report and for the terminal."""
    rows = [
        (
            "base model" if found.step == 0 else f"step {found.step}",
            f"{100 * found.accuracy:.0f} %",
            shown_drift(found.learned),
            shown_drift(found.control),
        )
        for found in judgements
    ]
    note = (
        "Accuracy: samples that show what a finished LoRA draws, read by a program. The control is to stay as it is. "
        "Drift: from the base model, in 8-bit levels."
    )
    title = f"Which checkpoint to keep: step {best.step}" if best else "Which checkpoint to keep"
    marked = tuple(index for index, found in enumerate(judgements) if found is best)
    return ReportTable(
        title, note, ("checkpoint", "accuracy", "drift of the zorps", "drift of the control"), rows, marked
    )


def shown_drift(value: float | None) -> str:
    """A drift for people."""
    return "" if value is None else f"{value:.1f}"


def verdict_table(results: Sequence[SampleResult]) -> Table:
    """A row per checkpoint, a column per prompt: the shape seen, green if a finished LoRA should draw it."""
    table = Table(
        box=SIMPLE_HEAD,
        title="What the samples show, read by a program",
        title_justify="left",
        title_style="bold",
        caption="A zorp is a pink star, which the base model does not know. The last prompt is to stay as it is.",
        caption_justify="left",
    )
    table.add_column("checkpoint")
    for shown in SHOWN:
        table.add_column(shown.text)
    for step in sorted({result.step for result in results}):
        cells = [cell(result_of(results, step, index), shown) for index, shown in enumerate(SHOWN)]
        table.add_row("base model" if step == 0 else f"step {step}", *cells)
    return table


def result_of(results: Sequence[SampleResult], step: int, prompt: int) -> SampleResult | None:
    """The result of one prompt at one step."""
    return next((result for result in results if (result.step, result.prompt_index) == (step, prompt)), None)


def cell(result: SampleResult | None, shown: Shown) -> str:
    """Description of one sample, with rich's colours."""
    if result is None or result.state is not JobState.DONE or result.path is None:
        return "[red]no sample[/]"
    try:
        reading = read_clip(np.stack(read_frames(Path(result.path))))
    except OSError:
        return "[red]no picture[/]"
    return f"[green]{describe(reading)} ✓[/]" if is_as_asked(reading, shown) else describe(reading)


def describe(reading: Reading) -> str:
    """`pink star`, or `a blot` of some colour where no shape can be made out."""
    return f"{reading.scene.colour} {reading.scene.shape if reading.readable else 'blot'}"


def is_as_asked(reading: Reading, shown: Shown) -> bool:
    """True if a sample shows the shape that a finished LoRA draws for its prompt."""
    return reading.readable and (reading.scene.colour, reading.scene.shape) == (shown.colour, shown.shape)
