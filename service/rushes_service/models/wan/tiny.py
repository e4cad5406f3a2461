"""A tiny Wan2.1 model with random weights: real classes, no network, about 1.5 MB.

For the demo and for tests.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel
from transformers import UMT5Config, UMT5EncoderModel

from rushes_service.models.tiny_parts import (
    FAINT,
    VELOCITY_STD,
    blur,
    build_once,
    byte_tokenizer,
    rescale,
    stretch_colours,
)

RECIPE = 1
"""Raised when a change here makes different weights."""

TEXT_TOKENS = 512
"""Wan's attention takes this many text tokens for granted."""

TEXT_DIM = 32
IMAGE_TOKENS = 257
"""Of CLIP's vision tower: 16 x 16 patches and the class token."""

PROMPT_GAIN = 8.0
"""Sharpens cross-attention."""


def build_tiny_wan(directory: Path, *, seed: int = 0) -> Path:
    """Write a complete `WanPipeline` directory with random weights to `directory` and return it.

    The weights depend on `seed` alone.

    Raises:
        ConfigError: `directory` exists and holds something else.
    """
    return build_once(directory, json.dumps({"recipe": RECIPE, "seed": seed}), pipeline, seed=seed)


def pipeline() -> WanPipeline:
    """The tiny pipeline in float32 on the CPU."""
    return WanPipeline(
        tokenizer=byte_tokenizer(),
        text_encoder=text_encoder(),
        transformer=transformer(),
        vae=vae(),
        scheduler=scheduler(),
    )


def scheduler() -> UniPCMultistepScheduler:
    """As published with Wan."""
    return UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)


def text_encoder() -> UMT5EncoderModel:
    """Two UMT5 layers over the bytes of the prompt."""
    config = UMT5Config(
        vocab_size=264, d_model=TEXT_DIM, d_kv=8, d_ff=64, num_layers=2, num_heads=4, pad_token_id=0, eos_token_id=1
    )
    return UMT5EncoderModel(config).eval().requires_grad_(False)


@torch.no_grad()
def transformer(
    in_channels: int = 16,
    image_dim: int | None = None,
    layers: int = 2,
    pictures: int = 1,
    out_channels: int = 16,
) -> WanTransformer3DModel:
    """Blocks of 64 channels, scaled so that the velocity it predicts is as large as the noise.

    With `image_dim` its cross-attention sees image tokens of that width, too, of one or two pictures.
    """
    model = WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=4,
        attention_head_dim=16,
        in_channels=in_channels,
        out_channels=out_channels,
        text_dim=TEXT_DIM,
        freq_dim=64,
        ffn_dim=128,
        num_layers=layers,
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
        rope_max_seq_len=1024,
        image_dim=image_dim,
        added_kv_proj_dim=None if image_dim is None else 64,
        pos_embed_seq_len=pictures * IMAGE_TOKENS if pictures > 1 else None,
    ).eval()
    model.requires_grad_(False)
    for block in model.blocks:
        # A prompt is a few tokens among 512: without sharp attention to them it would hardly show.
        block.attn2.norm_k.weight *= PROMPT_GAIN
    inputs = [torch.randn(1, in_channels, 3, 8, 8), torch.tensor([500]), torch.randn(1, TEXT_TOKENS, TEXT_DIM)]
    if image_dim is not None:
        inputs.append(torch.randn(pictures, IMAGE_TOKENS, image_dim))
    rescale(model.proj_out, VELOCITY_STD / model(*inputs).sample.std())
    return model


@torch.no_grad()
def vae() -> AutoencoderKLWan:
    """Wan2.1's VAE layout (16 channels, 8 times smaller in space, 4 in time), four channels wide at its finest."""
    model = AutoencoderKLWan(base_dim=4, z_dim=16, dim_mult=[1, 2, 4, 4], num_res_blocks=1, attn_scales=[]).eval()
    model.requires_grad_(False)
    for layer in (*spatial_convolutions(model.decoder), model.decoder.conv_out):
        blur(layer)
    mean = torch.tensor(model.config.latents_mean).view(1, 16, 1, 1, 1)
    std = torch.tensor(model.config.latents_std).view(1, 16, 1, 1, 1)
    last = model.decoder.conv_out
    rescale(last, FAINT)
    picture = model.decode(torch.randn(1, 16, 3, 16, 16) * std + mean).sample
    stretch_colours(last, picture)
    return model


def spatial_convolutions(decoder: torch.nn.Module) -> list[torch.nn.Conv2d]:
    """The convolutions that follow each enlargement (the only plain 3x3 ones of the decoder)."""
    return [
        module for module in decoder.modules() if isinstance(module, torch.nn.Conv2d) and module.kernel_size == (3, 3)
    ]
