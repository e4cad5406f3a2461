"""Tiny Kandinsky 5 models with random weights: real classes, no network, under 2 MB each. See `tiny_parts`."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    Kandinsky5I2VPipeline,
    Kandinsky5T2IPipeline,
    Kandinsky5T2VPipeline,
    Kandinsky5Transformer3DModel,
)

from rushes_service.models.encoders.tiny_llama import POOLED_DIM, clip, clip_tokenizer
from rushes_service.models.hunyuan.tiny import vae
from rushes_service.models.llm.tiny import TEXT_DIM, qwen_tokenizer, qwen_vl
from rushes_service.models.tiny_parts import VELOCITY_STD, build_once, image_vae, rescale

RECIPE = 1
"""Raised when a change here or in the parts makes different weights."""

PROMPT_GAIN = 6.0
"""Makes the prompt show in the picture."""

AXES = (4, 6, 6)
"""Rotary dimensions of each head for time, row and column."""

MODULATION = 0.2
"""Standard deviation of what time and text modulate by; the class begins with zeros, which change nothing."""


def build(name: str, kind: Any, picture: bool, directory: Path) -> Path:
    """Write a tiny model to `directory`, unless it is there, and return it; `name` tells recipes apart.

    Raises:
        ConfigError: `directory` exists and holds something else.
    """
    recipe = json.dumps({"recipe": RECIPE, "family": name})
    return build_once(directory, recipe, partial(pipeline, kind, picture))


def pipeline(kind: Any, picture: bool) -> DiffusionPipeline:
    """The tiny pipeline in float32 on the CPU."""
    words, pooled_words = qwen_tokenizer(), clip_tokenizer()
    return kind(  # type: ignore[no-any-return]
        transformer=transformer(picture),
        vae=image_vae() if picture else vae(),
        text_encoder=qwen_vl(words),
        tokenizer=words,
        text_encoder_2=clip(pooled_words),
        tokenizer_2=pooled_words,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0 if picture else 10.0),
    )


@torch.no_grad()
def transformer(picture: bool) -> Kandinsky5Transformer3DModel:
    """Two blocks and one of the text, 32 wide, scaled so that the velocity it predicts is as large as the noise."""
    width = 2 * sum(AXES)
    model = Kandinsky5Transformer3DModel(
        in_visual_dim=16,
        out_visual_dim=16,
        in_text_dim=TEXT_DIM,
        in_text_dim2=POOLED_DIM,
        time_dim=32,
        model_dim=width,
        ff_dim=2 * width,
        num_text_blocks=1,
        num_visual_blocks=2,
        axes_dims=AXES,
        visual_cond=not picture,
    ).eval()
    model.requires_grad_(False)
    for name, parameter in model.named_parameters():
        if "modulation" in name:
            parameter.normal_(std=MODULATION)
    rescale(model.text_embeddings.in_layer, PROMPT_GAIN)
    channels = model.visual_embeddings.in_layer.in_features // 4
    velocity = model(
        hidden_states=torch.randn(1, 1 if picture else 3, 8, 8, channels),
        encoder_hidden_states=torch.randn(1, 8, TEXT_DIM),
        timestep=torch.tensor([500.0]),
        pooled_projections=torch.randn(1, POOLED_DIM),
        visual_rope_pos=[torch.arange(size) for size in (1 if picture else 3, 4, 4)],
        text_rope_pos=torch.arange(8),
        return_dict=False,
    )
    rescale(model.out_layer.out_layer, VELOCITY_STD / velocity.std())
    return model


build_tiny_t2v = partial(build, "kandinsky5-t2v", Kandinsky5T2VPipeline, False)
build_tiny_i2v = partial(build, "kandinsky5-i2v", Kandinsky5I2VPipeline, False)
build_tiny_t2i = partial(build, "kandinsky5-t2i", Kandinsky5T2IPipeline, True)
