"""Options of prompts as arguments of a pipeline, by its own signature, and the values that it has of its own."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from typing import Any

from rushes.errors import PromptError
from rushes.families.parameters import SampleParameters
from rushes_service.models.generic.source import backbone

Signature = Mapping[str, inspect.Parameter]

ARGUMENTS: Mapping[str, tuple[str, ...]] = {
    "width": ("width",),
    "height": ("height",),
    "frame_count": ("num_frames", "video_length", "frames"),
    "sample_steps": ("num_inference_steps",),
    "guidance_scale": ("guidance_scale",),
    "cfg_scale": ("true_cfg_scale",),
    "negative_prompt": ("negative_prompt",),
    "image_path": ("image",),
    "end_image_path": ("last_image",),
}
"""What options are called in pipelines. `--l` is `guidance_scale` where there is no `true_cfg_scale`."""

RATES: tuple[tuple[str, int], ...] = (
    (r"Wan|AnyFlow|ChronoEdit|LucyEdit|SanaVideo|SanaImageToVideo", 16),
    (r"CogVideoX|ConsisID|Latte|EasyAnimate|AnimateDiff|PIA|I2VGen|TextToVideo", 8),
    (r"Mochi|Cosmos|HunyuanVideoFramepack", 30),
    (r"Allegro", 15),
)
"""Beginnings of names of pipelines that state no rate, and frames a second of what their models were trained on."""

RATE = 24
"""Frames per second of all others."""


def argument_of(field: str, signature: Signature) -> str | None:
    """The pipeline's argument for an option; None if it has none."""
    return next((name for name in ARGUMENTS[field] if name in signature), None)


def given(parameters: SampleParameters) -> list[str]:
    """The fields that the prompt gives."""
    return [
        field for field in ARGUMENTS if field not in parameters.left_to_model and getattr(parameters, field) is not None
    ]


def arguments_of(parameters: SampleParameters, signature: Signature) -> dict[str, str]:
    """The pipeline's argument for each option that the prompt gives and the pipeline takes."""
    fields = given(parameters)
    found = {field: name for field in fields if (name := argument_of(field, signature))}
    only = "cfg_scale" in fields and not {"cfg_scale", "guidance_scale"} & found.keys()
    if only and "guidance_scale" in signature:
        found["cfg_scale"] = "guidance_scale"
    return found


def frame_rate(kind: str, signature: Signature) -> int:
    """Frames per second of the clips of a pipeline."""
    for name in ("frame_rate", "fps"):
        if name in signature and isinstance(rate := signature[name].default, (int, float)) and rate >= 1:
            return round(rate)
    return next((rate for begin, rate in RATES if re.match(begin, kind)), RATE)


def own_values(pipe: Any, parameters: SampleParameters, signature: Signature) -> dict[str, Any]:
    """What the pipeline has of its own for the fields that the prompt leaves to it.

    Raises:
        PromptError: it has no size, or no number of steps.
    """
    own: dict[str, Any] = {}
    kind = type(pipe).__name__
    for field in parameters.left_to_model:
        name = argument_of(field, signature)
        default = signature[name].default if name else None
        if not isinstance(default, (int, float)):
            default = measured(pipe, field) if name else None
        if default is None and field in ("width", "height"):
            raise PromptError(f"{kind} has no size of its own: give --w and --h")
        if default is None and field == "sample_steps":
            raise PromptError(f"{kind} has no number of steps of its own: give --s")
        if default is not None:
            own[field] = default
    return own


def measured(pipe: Any, field: str) -> int | None:
    """A size in pixels, or a number of frames, that follows from the model's configuration."""
    config = backbone(pipe).config
    if field == "frame_count":
        frames = getattr(config, "sample_frames", None)
        return frames * temporal_ratio(pipe) if frames and type(pipe).__name__.startswith("Allegro") else frames
    if field not in ("width", "height"):
        return None
    size = getattr(config, f"sample_{field}", None) or getattr(pipe, "default_sample_size", None)
    size = size or getattr(config, "sample_size", None)
    return size * spatial_ratio(pipe) if isinstance(size, int) and spatial_ratio(pipe) else None


def spatial_ratio(pipe: Any) -> int:
    """Pixels per latent and side; 0 where the pipeline does not tell."""
    return ratio_of(
        pipe,
        "vae_scale_factor",
        "vae_scale_factor_spatial",
        "vae_spatial_compression_ratio",
        "vae_spatial_scale_factor",
    )


def temporal_ratio(pipe: Any) -> int:
    """Frames per latent frame; 1 where the pipeline does not tell."""
    names = ("vae_scale_factor_temporal", "vae_temporal_compression_ratio", "vae_temporal_scale_factor")
    return ratio_of(pipe, *names) or 1


def ratio_of(pipe: Any, *names: str) -> int:
    """The first of some attributes that is a whole number; 0 if none is."""
    return next((ratio for name in names if isinstance(ratio := getattr(pipe, name, None), int)), 0)
