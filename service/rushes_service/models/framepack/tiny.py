"""A tiny FramePack model with random weights: real classes, no network, under 2 MB. See `tiny_parts`."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers import HunyuanVideoFramepackPipeline, HunyuanVideoFramepackTransformer3DModel
from transformers import SiglipImageProcessor, SiglipVisionConfig, SiglipVisionModel

from rushes_service.models.encoders.tiny_llama import POOLED_DIM, TEXT_DIM
from rushes_service.models.hunyuan.tiny import LATENT_CHANNELS, other_parts, text_parts
from rushes_service.models.tiny_parts import VELOCITY_STD, build_once, replace_text, rescale

RECIPE = 1
"""Raised when a change here makes different weights."""

HEADS, AXES = 2, (4, 2, 2)
"""Attention heads, and rotary dimensions of each for time, row and column."""

IMAGE_DIM = 16
PICTURE, PATCH = 32, 8
"""Pixels: what the image encoder sees, and the side of its patches."""


def build_tiny_framepack(directory: Path, *, seed: int = 0) -> Path:
    """Write a complete `HunyuanVideoFramepackPipeline` directory to `directory` and return it; as `build_tiny_wan`.

    Raises:
        ConfigError: `directory` exists and holds something else.
    """

    recipe = json.dumps({"recipe": RECIPE, "family": "framepack", "seed": seed})
    return build_once(directory, recipe, pipeline, seed=seed, after=name_processor)


def name_processor(directory: Path) -> None:
    """Name an image processor that every transformers version knows."""
    for file in ("model_index.json", "feature_extractor/preprocessor_config.json"):
        replace_text(directory / file, "SiglipImageProcessorPil", "SiglipImageProcessor")


def pipeline() -> HunyuanVideoFramepackPipeline:
    """The tiny pipeline in float32 on the CPU."""
    return HunyuanVideoFramepackPipeline(
        transformer=transformer(),
        image_encoder=image_encoder(),
        feature_extractor=SiglipImageProcessor(
            size={"height": PICTURE, "width": PICTURE}, image_mean=[0.5] * 3, image_std=[0.5] * 3
        ),
        **text_parts(),
        **other_parts(),
    )


def image_encoder() -> SiglipVisionModel:
    """Two SigLIP layers."""
    config = SiglipVisionConfig(
        hidden_size=IMAGE_DIM,
        intermediate_size=2 * IMAGE_DIM,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=PICTURE,
        patch_size=PATCH,
    )
    return SiglipVisionModel(config).eval().requires_grad_(False)


@torch.no_grad()
def transformer() -> HunyuanVideoFramepackTransformer3DModel:
    """One double and one single block, scaled so that the velocity it predicts is as large as the noise."""
    model = HunyuanVideoFramepackTransformer3DModel(
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        num_attention_heads=HEADS,
        attention_head_dim=sum(AXES),
        num_layers=1,
        num_single_layers=1,
        num_refiner_layers=1,
        text_embed_dim=TEXT_DIM,
        pooled_projection_dim=POOLED_DIM,
        rope_axes_dim=AXES,
        has_image_proj=True,
        image_proj_dim=IMAGE_DIM,
        has_clean_x_embedder=True,
    ).eval()
    model.requires_grad_(False)
    velocity = model(
        hidden_states=torch.randn(1, LATENT_CHANNELS, 3, 8, 8),
        timestep=torch.tensor([500.0]),
        encoder_hidden_states=torch.randn(1, 8, TEXT_DIM),
        encoder_attention_mask=torch.ones(1, 8),
        pooled_projections=torch.randn(1, POOLED_DIM),
        image_embeds=torch.randn(1, 16, IMAGE_DIM),
        indices_latents=torch.arange(3),
        guidance=torch.tensor([10000.0]),
        latents_clean=torch.randn(1, LATENT_CHANNELS, 2, 8, 8),
        indices_latents_clean=torch.tensor([0, 4]),
        latents_history_2x=torch.zeros(1, LATENT_CHANNELS, 2, 8, 8),
        indices_latents_history_2x=torch.arange(2),
        latents_history_4x=torch.zeros(1, LATENT_CHANNELS, 16, 8, 8),
        indices_latents_history_4x=torch.arange(16),
        return_dict=False,
    )[0]
    rescale(model.proj_out, VELOCITY_STD / velocity.std())
    return model
