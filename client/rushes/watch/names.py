"""What the name of a checkpoint, and the metadata in it, say about where in a training run it is from.

| trainer | names |
|---|---|
| musubi-tuner, sd-scripts | `NAME-000004.safetensors` (epoch), `NAME-step00000500.safetensors`, `NAME.safetensors` |
| diffusers scripts | `checkpoint-500/pytorch_lora_weights.safetensors` |
| SimpleTuner | the same, `checkpoint-500-rolling/`, and averaged weights in `checkpoint-500/ema/` |
| PEFT, Hugging Face Trainer | `checkpoint-500/adapter_model.safetensors` beside `adapter_config.json` |
| ai-toolkit | `NAME_000000500.safetensors`, `NAME.safetensors` |
| diffusion-pipe | `epoch4/`, `step500/`: PEFT adapters |
| finetrainers | `lora_weights/000500/pytorch_lora_weights.safetensors` |
| OneTrainer | `save/PREFIX2026-01-31_12-00-00-save-500-2-100.safetensors` (step, epoch, step of the epoch) |
| OneTrainer's last | `PREFIX2026-01-31_12-30-00.safetensors` beside `save/` |
| DiffSynth-Studio | `step-500.safetensors`, `epoch-4.safetensors` (the first epoch is 0) |
| Lightning | `epoch=4-step=500-val_loss=0.12.safetensors` |

Beside these a name may say which of Wan2.2's transformers it is for (`_high_noise`), that it is a copy in another
format or of averaged weights (`_comfy`, `_EMA`: a label), and how good it is (`-loss-0.12`: passed over).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

from rushes.checkpoints.file_names import without_expert
from rushes.wire.models import Expert


@dataclass(frozen=True)
class Place:
    """Where a checkpoint is from, as far as it says so.

    Args:
        name: of the training run, the trainer's `--output_name`; None where files are called alike in every run.
        step: optimizer steps done.
        epoch: as the file's name counts them.
        label: of a copy in another format, or of averaged weights.
        expert: the transformer of Wan2.2 that it is for.
        epochs_from_zero: the first epoch of its run is called 0, so that `epoch` is one less than the epochs done.
    """

    name: str | None = None
    step: int | None = None
    epoch: int | None = None
    label: str | None = None
    expert: Expert | None = None
    epochs_from_zero: bool = False


NAME = r"(?:(?P<name>.+?)(?<!global)[-_.])?"
STEP = r"(?:global[-_])?steps?[-_=]?(?P<step>\d+)"
EPOCH = r"epoch[-_=]?(?P<epoch>\d+)"
TIME = r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d"

FILES = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"(?P<name>.*?){TIME}-save-(?P<step>\d+)-(?P<epoch>\d+)-\d+",
        rf"{NAME}{EPOCH}[-_.]{STEP}(?:-v\d+)?",
        rf"{NAME}{STEP}[-_.]{EPOCH}(?:-v\d+)?",
        rf"{NAME}{STEP}",
        rf"{NAME}{EPOCH}",
        r"(?P<name>.+)-(?P<epoch>\d{6})",
        r"(?P<name>.+)_(?P<step>\d{9})",
        r"(?:(?P<name>.+?)[-_])?checkpoint[-_](?P<step>\d+)",
    )
)
"""Names without their ending; the first that matches the whole name counts. Lightning adds `-v1` to a name that it has
written before."""

DIRECTORIES = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"checkpoint[-_](?P<step>\d+)(?:-rolling)?",
        rf"{EPOCH}[-_.]{STEP}",
        STEP,
        EPOCH,
        r"(?P<step>\d{6})",
    )
)

COMMON_NAMES = frozenset({"pytorch_lora_weights", "adapter_model", "lora", "lora_weights"})
"""Names of files that say nothing about the run, being the same in every one."""

COPY = re.compile(
    r"[-_.](?P<label>ema(?:[-_]?0?\.\d+)?|comfy(?:ui)?|convert(?:ed)?|diffusers|kohya|peft|webui|fp16|bf16|fp32|fp8"
    r"|pruned|resized|copy)$|^(?P<before>ema)[-_.](?=.)",
    re.IGNORECASE,
)
"""What tools add to the name of a copy of a checkpoint, and trainers to that of averaged weights."""

METRIC = re.compile(
    r"[-_. ]?(?<![A-Za-z0-9])(?!(?:\w*_)?(?:epoch|step)=)[A-Za-z][\w/]*=[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?"
    r"|[-_. ](?:[a-z]+[-_])?(?:val|loss|mse|mae|acc|accuracy|fid|clip|lpips|psnr|ssim|score|lr)"
    r"[-_]?\d+\.\d+(?:e[-+]?\d+)?",
    re.IGNORECASE,
)
"""How good a checkpoint is: `-val_loss=0.12`, `_loss-0.12`."""

LABEL_LENGTH = 32


def place_of_file(stem: str, run: str | None = None, *, short_experts: bool = False) -> Place:
    """What a file's name without its ending says.

    Args:
        run: the name of its run, if that is known: `lora-250131` is then no epoch of a run `lora`.
        short_experts: `_high` and `_low` at the end of a name are experts.
    """
    if run and without_time(stem) == run:
        return Place(run)
    if run and stem.startswith(run):
        rest = f"x{stem[len(run) :]}"
        ends = [len(rest), *(match.start() for match in reversed(list(re.finditer("[-_.]", rest))))]
        for end in ends:
            place = parsed(rest[:end], short_experts)
            if place.name != "x" or (end < len(rest) and place.step is None and place.epoch is None):
                continue
            # What stands behind a step or an epoch and is nothing that tools write is somebody's word for a copy.
            return replace(place, name=run, label=place.label or as_label(rest[end:]))
    return parsed(stem, short_experts)


def parsed(stem: str, short_experts: bool) -> Place:
    """What a name says if nothing else is known of it. Copies and experts stand behind the step or before it."""
    stem = METRIC.sub("", stem).strip("-_. ")
    stem, label, expert = without_additions(stem, None, None, short_experts)
    # A number with a point behind a step or an epoch is a metric without a name.
    stems = (stem, re.sub(r"[-_]\d+\.\d+$", "", stem))
    match = next((match for name in stems for pattern in FILES if (match := pattern.fullmatch(name))), None)
    place = matched(match) if match else Place(stem)
    name, label, expert = without_additions(place.name or "", label, expert, short_experts)
    return replace(place, name=None if not name or name in COMMON_NAMES else name, label=label, expert=expert)


def without_additions(
    name: str, label: str | None, expert: Expert | None, short_experts: bool
) -> tuple[str, str | None, Expert | None]:
    """A name without what says that it is a copy, or for one expert; with what was found, unless that is known."""
    while True:
        before = name
        name, found = without_expert(name, short=short_experts)
        expert = expert or found
        if copy := COPY.search(name):
            name = name[: copy.start()] + name[copy.end() :]
            label = label or as_label((copy["label"] or copy["before"]).lower())
        if name == before:
            return name, label, expert


def as_label(text: str) -> str | None:
    """A text as a label, which is part of a file name; None for nothing."""
    return re.sub(r"[^A-Za-z0-9.-]+", "-", text).strip("-")[:LABEL_LENGTH] or None


def place_of_directory(name: str) -> Place | None:
    """What the name of a directory that holds one checkpoint says; None for any other directory."""
    bare, label, expert = without_additions(METRIC.sub("", name).strip("-_. "), None, None, False)
    for pattern in DIRECTORIES:
        if match := pattern.fullmatch(bare):
            return replace(matched(match), label=label, expert=expert)
    return None


def without_time(stem: str) -> str | None:
    """The name of the run in that of OneTrainer's last checkpoint, empty where it has none; None for other names."""
    match = re.fullmatch(rf"(.*?){TIME}", stem)
    return match[1].rstrip("-_. ") if match else None


def matched(match: re.Match[str]) -> Place:
    """A place from the named groups of a match."""
    found = {key: value for key, value in match.groupdict().items() if value}
    step, epoch = (int(found[key]) if key in found else None for key in ("step", "epoch"))
    return Place(found.get("name", "").rstrip("-_. ") or None, step, epoch)


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

    The name counts first, then the metadata. A file that says its epoch alone counts as that step: as the first if it
    is epoch 0 of a run that counts from there. One that says nothing is a run's last: it counts as `newest`, the
    highest step of its run so far.
    """
    epochs = None if place.epoch is None else place.epoch + place.epochs_from_zero
    for number in (place.step, step_of_metadata(metadata), epochs):
        if number is not None:
            return max(1, number)
    return max(1, newest)
