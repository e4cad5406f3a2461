"""What a sample of any family needs, read off the table of families, so that a new one is tested as the others are."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import nn

from rushes.families.spec import ArchitectureSpec
from rushes.families.table import ARCHITECTURES
from rushes.wire.models import ModelSpec
from rushes_service.models import tiny

FAMILIES = [name for name, spec in ARCHITECTURES.items() if spec.sampled]
TINY_MODELS = "TINY_MODELS"
"""Environment variable with the directory of tiny models that a session shares (conftest.py)."""

SIZE = 32
"""Pixels per side."""

CLIP_FRAMES = 5
WINDOW = 2
"""Latent frames of a section, for families that make clips in sections: their published one makes long clips."""


PLACES = "target_index=1,control_index=0"
"""`--of` for families that need it."""


def makes_pictures(spec: ArchitectureSpec) -> bool:
    """True if the family can make a single frame."""
    return not spec.sections and spec.fewest_frames == 1


def makes_clips(spec: ArchitectureSpec) -> bool:
    """True for a video family; of what makes what its model makes, the tiny model makes pictures."""
    return not (spec.image_only or spec.own_defaults)


def build_tiny(name: str, directory: Path) -> Path:
    """A copy of the family's tiny model in `directory`; it is built once for all processes of a session."""
    if not directory.exists():
        shutil.copytree(tiny.build_tiny(name, Path(os.environ[TINY_MODELS]) / name), directory)
    return directory


def tiny_model_spec(name: str, directory: Path) -> ModelSpec:
    """The family's tiny model, below `directory`."""
    window = {"latent_window_size": WINDOW} if ARCHITECTURES[name].sections else {}
    return ModelSpec(architecture=name, model=str(build_tiny(name, directory / f"tiny-{name}")), **window)


def as_loaded(pipe: Any) -> Any:
    """A pipeline of diffusers with its weights in memory of their own, as ours are.

    In a mapped file they lie where the CPU's kernels add up in another order.
    """
    for module in pipe.components.values():
        if isinstance(module, nn.Module):
            for parameter in module.parameters():
                parameter.data = parameter.data.clone()
    return pipe


def picture(path: Path, seed: int = 0) -> Path:
    """A colourful picture of twice the size that is sampled, and of another shape."""
    smooth = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(smooth).resize((2 * SIZE + 16, 2 * SIZE)).save(path)
    return path


def tiny_options(spec: ArchitectureSpec, directory: Path, frames: int | None = None) -> dict[str, Any]:
    """Options of a prompt that `spec` samples in well under a second, its input pictures made below `directory`."""
    options: dict[str, Any] = {"width": SIZE, "height": SIZE, "sample_steps": 2, "seed": 3}
    if frames is not None and not (spec.sections or spec.own_defaults):
        latent = spec.latent_frames is not None
        options["frame_count"] = (frames - 1) // spec.frame_stride + 1 if latent else frames
    inputs = spec.requires | spec.uses
    for field in ("image_path", "end_image_path"):
        if field in (spec.requires if field == "end_image_path" else inputs):  # where used, not for every model
            options[field] = str(picture(directory / f"{field}.png"))
    if "control_image_path" in inputs:
        options["control_image_path"] = (str(picture(directory / "control.png", seed=1)),)
    if "control_video_path" in inputs:
        for frame in range(frames or CLIP_FRAMES):
            picture(directory / "control" / f"{frame:04d}.png", seed=frame)
        options["control_video_path"] = str(directory / "control")
    if "one_frame" in spec.requires:
        options["one_frame"] = PLACES
    return options


def required(spec: ArchitectureSpec) -> dict[str, Any]:
    """What a prompt of the family must have, with paths that are not there."""
    values = {"control_image_path": ("/a.png",), "one_frame": PLACES}
    return {field: values.get(field, "/a.png") for field in spec.requires}
