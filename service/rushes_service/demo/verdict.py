"""The verdict on the demo's samples, per checkpoint: does the LoRA draw its concept, and is the rest unharmed?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table

from rushes.wire.jobs import JobState, SampleResult
from rushes_service.demo.checker import Reading, read_clip
from rushes_service.demo.options import SHOWN, Shown
from rushes_service.demo.verify import read_frames


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
