"""What the name of a checkpoint, and the metadata in it, say about where in a training run it is from.

| trainer | names |
|---|---|
| musubi-tuner, sd-scripts | `NAME-000004.safetensors` (epoch), `NAME-step00000500.safetensors`, `NAME.safetensors` |
| diffusers scripts, SimpleTuner | `checkpoint-500/pytorch_lora_weights.safetensors` |
| PEFT, Hugging Face Trainer | `checkpoint-500/adapter_model.safetensors` beside `adapter_config.json` |
| ai-toolkit | `NAME_000000500.safetensors`, `NAME.safetensors` |
| diffusion-pipe | `epoch4/`, `step500/`: PEFT adapters |
| finetrainers | `lora_weights/000500/pytorch_lora_weights.safetensors` |
| OneTrainer | `save/PREFIX2026-01-31_12-00-00-save-500-2-100.safetensors` (step, epoch, step of the epoch) |
| DiffSynth-Studio | `step-500.safetensors`, `epoch-4.safetensors` |
| Lightning | `epoch=4-step=500.safetensors` |
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast


@dataclass(frozen=True)
class Place:
    """Where a checkpoint is from, as far as it says so.

    Args:
        name: of the training run, the trainer's `--output_name`; None where files are called alike in every run.
        step: optimizer steps done.
        epoch: epochs done, of a file that is named after its epoch.
    """

    name: str | None = None
    step: int | None = None
    epoch: int | None = None


FILES = tuple(
    re.compile(pattern)
    for pattern in (
        r"(?P<name>.*?)\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d-save-(?P<step>\d+)-(?P<epoch>\d+)-\d+",
        r"(?:(?P<name>.+?)[-_])?epoch=(?P<epoch>\d+)[-_]step=(?P<step>\d+)",
        r"(?:(?P<name>.+?)[-_.])?steps?[-_=]?(?P<step>\d+)",
        r"(?:(?P<name>.+?)[-_.])?epoch[-_=]?(?P<epoch>\d+)",
        r"(?P<name>.+)-(?P<epoch>\d{6})",
        r"(?P<name>.+)_(?P<step>\d{9})",
        r"(?:(?P<name>.+?)[-_])?checkpoint[-_](?P<step>\d+)",
    )
)
"""Names without their ending; the first that matches the whole name counts."""

DIRECTORIES = tuple(
    re.compile(pattern)
    for pattern in (
        r"checkpoint[-_](?P<step>\d+)",
        r"steps?[-_]?(?P<step>\d+)",
        r"epoch[-_]?(?P<epoch>\d+)",
        r"(?P<step>\d{6})",
    )
)

COMMON_NAMES = frozenset({"pytorch_lora_weights", "adapter_model", "lora", "lora_weights"})
"""Names of files that say nothing about the run, being the same in every one."""


def place_of_file(stem: str) -> Place:
    """What a file's name without its ending says."""
    for pattern in FILES:
        if match := pattern.fullmatch(stem):
            return matched(match)
    return Place(None if stem in COMMON_NAMES else stem)


def place_of_directory(name: str) -> Place | None:
    """What the name of a directory that holds one checkpoint says; None for any other directory."""
    for pattern in DIRECTORIES:
        if match := pattern.fullmatch(name):
            return matched(match)
    return None


def matched(match: re.Match[str]) -> Place:
    """A place from the named groups of a match."""
    said = {key: value for key, value in match.groupdict().items() if value}
    step, epoch = (int(said[key]) if key in said else None for key in ("step", "epoch"))
    return Place(said.get("name", "").rstrip("-_. ") or None, step, epoch)


STEP_KEYS = ("ss_steps", "step", "global_step")
EPOCH_KEYS = ("ss_epoch", "epoch")


def step_of_metadata(metadata: Mapping[str, Any]) -> int | None:
    """The training step in a safetensors file's metadata: one of `STEP_KEYS`, or ai-toolkit's `training_info`."""
    try:
        info: Any = json.loads(metadata.get("training_info", "{}"))
        told = number_in(cast("dict[str, Any]", info), ("step",))
    except (AttributeError, TypeError, ValueError):
        told = None
    step = number_in(metadata, STEP_KEYS)
    return told if step is None else step


def epoch_of_metadata(metadata: Mapping[str, Any]) -> int | None:
    """The epoch in a safetensors file's metadata."""
    return number_in(metadata, EPOCH_KEYS)


def number_in(values: Mapping[str, Any], names: tuple[str, ...]) -> int | None:
    """The first of these entries that is a whole number; below zero counts as 0."""
    for name in names:
        try:
            return max(0, int(values[name]))
        except (KeyError, TypeError, ValueError, OverflowError):  # absent, `None`, thousands of digits
            continue
    return None


def step_of(place: Place, metadata: Mapping[str, Any], newest: int) -> int:
    """The step to sample a checkpoint under, and never 0, which is the base model.

    The name counts first, then the metadata. A file that says its epoch alone counts as that step. One that says
    nothing is a run's last: it counts as `newest`, the highest step of its run so far.
    """
    for said in (place.step, step_of_metadata(metadata), place.epoch):
        if said is not None:
            return max(1, said)
    return max(1, newest)
