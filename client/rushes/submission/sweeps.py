"""A sweep: one checkpoint at several strengths and seeds, as a run of its own with the strengths side by side."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

from rushes.errors import ConfigError
from rushes.families.parameters import resolve
from rushes.submission.build import Run, build_job, sampled_architecture, seed_for
from rushes.wire.jobs import Checkpoint, Prompt, SampleJob

MAX_VALUES = 50
"""Strengths, or seeds, of one sweep."""

DIGITS = 6
"""Decimals of a strength; `0.4 + 2 * 0.2` is 0.8 and not 0.8000000000000000444."""


def parse_strengths(text: str) -> tuple[float, ...]:
    """Strengths from `0.4:1.2:0.2` (first, last, step) or `0.5,0.8,1`.

    Raises:
        ConfigError: it is neither, or has more than `MAX_VALUES` strengths.
    """
    try:
        if ":" in text:
            first, last, step = (float(part) for part in text.split(":"))
            if not all(map(math.isfinite, (first, last, step))) or step <= 0 or last < first:
                raise ValueError
            count = math.floor((last - first) / step + 1e-9) + 1
            found = [round(first + place * step, DIGITS) for place in range(min(count, MAX_VALUES + 1))]
        else:
            found = [float(part) for part in text.replace(",", " ").split()]
        if not found or not all(map(math.isfinite, found)):
            raise ValueError
    except ValueError:
        raise ConfigError(f"--strengths {text!r}: write FIRST:LAST:STEP, such as 0.4:1.2:0.2, or 0.5,0.8,1") from None
    if len(found) > MAX_VALUES:
        raise ConfigError(f"--strengths {text!r}: {MAX_VALUES} strengths at most")
    return tuple(dict.fromkeys(found))


def sweep_run(run: Run, step: int) -> Run:
    """The run that a sweep of a checkpoint of `run` is listed under, served before training's samples."""
    return replace(run, name=f"{run.name}-sweep-{step}", priority="interactive", label=None)


def sweep_jobs(
    run: Run,
    prompts: Sequence[tuple[int, Prompt]],
    checkpoint: Checkpoint,
    *,
    step: int,
    strengths: Sequence[float],
    seeds: int = 1,
    epoch: int | None = None,
) -> Iterator[SampleJob]:
    """Every prompt (with its index) at every strength and seed, and once per seed without the LoRA.

    The first seed is the prompt's own, or a drawn one; the others follow it.

    Raises:
        ArchitectureError, PromptError: the family cannot sample one of the prompts.
    """
    spec = sampled_architecture(run.model.architecture)
    now = time.time()
    for index, prompt in prompts:
        resolve(prompt, spec, run.model)
        first = seed_for(prompt, run.model, seeds)
        for seed in range(first, first + seeds):
            base = prompt.model_copy(update={"seed": seed, "lora_multiplier": None})
            yield build_job(run, base, index, None, 0, None, now)
            for strength in strengths:
                if strength != 0:
                    asked = base.model_copy(update={"lora_multiplier": None if strength == 1 else strength})
                    yield build_job(run, asked, index, checkpoint, step, epoch, now)
