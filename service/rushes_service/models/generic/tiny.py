"""Tiny pipelines with random weights: SDXL, SD 3 and FLUX.1. Real classes, no network, 1 to 3 MB each."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
)

from rushes_service.models.flux.tiny import POOLED_DIM, T5_DIM, clip_encoder, clip_tokenizer
from rushes_service.models.flux.tiny import transformer as flux_transformer
from rushes_service.models.tiny_parts import build_once, byte_tokenizer, image_vae

RECIPE = 1
"""Raised when a change here makes different weights."""


def build_tiny_sdxl(directory: Path, *, seed: int = 0) -> Path:
    """Write a complete `StableDiffusionXLPipeline` directory to `directory` and return it; as `build_tiny_wan`.

    Raises:
        ConfigError: `directory` exists and holds something else.
    """
    return build("sdxl", directory, seed)


def build(name: str, directory: Path, seed: int = 0) -> Path:
    """Write one of `PIPELINES`; raises as `build_tiny_sdxl`."""
    recipe = json.dumps({"recipe": RECIPE, "family": "diffusers", "pipeline": name, "seed": seed})
    return build_once(directory, recipe, PIPELINES[name], seed=seed)


def sdxl() -> StableDiffusionXLPipeline:
    """SDXL with a UNet of two levels."""
    words = clip_tokenizer()
    return StableDiffusionXLPipeline(
        vae=latents_of_four(),
        text_encoder=clip_encoder(words),
        text_encoder_2=projected(words),
        tokenizer=words,
        tokenizer_2=clip_tokenizer(),
        unet=unet(),
        scheduler=EulerDiscreteScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", timestep_spacing="leading"
        ),
    )


def unet() -> UNet2DConditionModel:
    """Two levels, the second with attention, as SDXL has it."""
    return UNet2DConditionModel(
        sample_size=4,
        block_out_channels=(16, 32),
        layers_per_block=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        transformer_layers_per_block=(1, 2),
        projection_class_embeddings_input_dim=6 * 8 + POOLED_DIM,
        cross_attention_dim=2 * POOLED_DIM,
        norm_num_groups=4,
    ).eval()


def latents_of_four() -> AutoencoderKL:
    """Stable Diffusion's VAE layout: 4 channels, 8 times smaller."""
    widths = [8, 8, 8, 8]
    return AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * len(widths),
        up_block_types=["UpDecoderBlock2D"] * len(widths),
        block_out_channels=widths,
        layers_per_block=1,
        norm_num_groups=4,
        scaling_factor=0.13025,
    ).eval()


def sd3() -> StableDiffusion3Pipeline:
    """Stable Diffusion 3 with two blocks and its three encoders."""
    words = clip_tokenizer()
    transformer = SD3Transformer2DModel(
        sample_size=4,
        patch_size=2,
        in_channels=16,
        out_channels=16,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=4,
        joint_attention_dim=2 * POOLED_DIM,
        caption_projection_dim=32,
        pooled_projection_dim=2 * POOLED_DIM,
        pos_embed_max_size=16,
    ).eval()
    return StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=image_vae(),
        text_encoder=projected(words),
        tokenizer=words,
        text_encoder_2=projected(words),
        tokenizer_2=clip_tokenizer(),
        text_encoder_3=t5_encoder(2 * POOLED_DIM),
        tokenizer_3=byte_tokenizer(),
    )


def flux() -> FluxPipeline:
    """FLUX.1 with a guidance embedding."""
    words = clip_tokenizer()
    return FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=image_vae(),
        text_encoder=clip_encoder(words),
        tokenizer=words,
        text_encoder_2=t5_encoder(T5_DIM),
        tokenizer_2=byte_tokenizer(),
        transformer=flux_transformer(),
    )


def t5_encoder(width: int) -> T5EncoderModel:
    """One T5 layer over the bytes of the prompt."""
    config = T5Config(
        vocab_size=264, d_model=width, d_kv=8, d_ff=64, num_layers=1, num_heads=4, feed_forward_proj="gated-gelu"
    )
    return T5EncoderModel(config).eval().requires_grad_(False)


def projected(words: CLIPTokenizer) -> CLIPTextModelWithProjection:
    """Two CLIP layers and a projection."""
    base: CLIPTextModel = clip_encoder(words)
    config = CLIPTextConfig.from_dict(base.config.to_dict())
    return CLIPTextModelWithProjection(config).eval().requires_grad_(False)


PIPELINES: dict[str, Callable[[], Any]] = {"sdxl": sdxl, "sd3": sd3, "flux": flux}
"""What `build` makes."""
