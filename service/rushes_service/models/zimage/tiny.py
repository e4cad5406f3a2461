"""A tiny Z-Image model with random weights: real classes, no network, about 2 MB. See `tiny_parts`."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, ZImagePipeline, ZImageTransformer2DModel

from rushes_service.models.llm.tiny import TEXT_DIM, qwen3, qwen_tokenizer
from rushes_service.models.tiny_parts import VELOCITY_STD, build_once, image_vae, rescale

RECIPE = 1
"""Raised when a change here makes different weights."""

PROMPT_GAIN = 8.0
"""Makes the prompt show in the picture."""

AXES = (4, 6, 6)
"""Rotary dimensions of each head for place in the text, row and column."""


def build_tiny_zimage(directory: Path, *, seed: int = 0) -> Path:
    """Write a complete `ZImagePipeline` directory to `directory` and return it; as `build_tiny_wan`.

    Raises:
        ConfigError: `directory` exists and holds something else.
    """
    recipe = json.dumps({"recipe": RECIPE, "family": "z-image", "seed": seed})
    return build_once(directory, recipe, pipeline, seed=seed)


def pipeline() -> ZImagePipeline:
    """The tiny pipeline in float32 on the CPU."""
    words = qwen_tokenizer()
    return ZImagePipeline(
        tokenizer=words,
        text_encoder=qwen3(words),
        transformer=transformer(),
        vae=image_vae(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    )


@torch.no_grad()
def transformer() -> ZImageTransformer2DModel:
    """Two layers and a refiner of each kind, 32 wide, scaled so that its velocity is as large as the noise."""
    model = ZImageTransformer2DModel(
        dim=2 * sum(AXES),
        n_layers=2,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=TEXT_DIM,
        axes_dims=list(AXES),
        axes_lens=[1536, 512, 512],
    ).eval()
    model.requires_grad_(False)
    for token in (model.x_pad_token, model.cap_pad_token):
        token.normal_(std=0.02)  # left as allocated otherwise
    rescale(model.cap_embedder[1], PROMPT_GAIN)
    (velocity,) = model([torch.randn(16, 1, 8, 8)], torch.tensor([0.5]), [torch.randn(16, TEXT_DIM)]).sample
    rescale(model.all_final_layer["2-1"].linear, VELOCITY_STD / velocity.std())
    return model
