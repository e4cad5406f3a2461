"""A tiny FLUX.2 klein model with random weights: real classes, no network, below 2 MB. See `tiny_parts`."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKLFlux2,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Transformer2DModel,
)

from rushes_service.models.llm.tiny import qwen3, qwen_tokenizer
from rushes_service.models.tiny_parts import FAINT, VELOCITY_STD, blur, build_once, rescale, stretch_colours

RECIPE = 1
"""Raised when a change here makes different weights."""

PROMPT_GAIN = 8.0
"""Makes the prompt show in the picture."""

LAYERS, WIDTH = 28, 16
"""Of Qwen3, whose hidden state 27 is the last one that is taken."""

AXES = (4, 4, 4, 4)
"""Rotary dimensions of each head for time, row, column and place in the text."""


def build_tiny_klein(directory: Path, *, seed: int = 0) -> Path:
    """Write a complete `Flux2KleinPipeline` directory to `directory` and return it; as `build_tiny_wan`.

    Raises:
        ConfigError: `directory` exists and holds something else.
    """
    recipe = json.dumps({"recipe": RECIPE, "family": "flux2-klein", "seed": seed})
    return build_once(directory, recipe, pipeline, seed=seed)


def pipeline() -> Flux2KleinPipeline:
    """The tiny pipeline in float32 on the CPU."""
    words = qwen_tokenizer()
    return Flux2KleinPipeline(
        tokenizer=words,
        text_encoder=qwen3(words, LAYERS, WIDTH),
        transformer=transformer(3 * WIDTH),
        vae=vae(),
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
    )


@torch.no_grad()
def transformer(text_dim: int, *, guided: bool = False) -> Flux2Transformer2DModel:
    """Two blocks of each kind, 32 wide, scaled so that the velocity it predicts is as large as the noise."""
    model = Flux2Transformer2DModel(
        in_channels=128,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=sum(AXES),
        num_attention_heads=2,
        joint_attention_dim=text_dim,
        axes_dims_rope=AXES,
        guidance_embeds=guided,
    ).eval()
    model.requires_grad_(False)
    model.context_embedder.weight *= PROMPT_GAIN
    tokens = 16
    velocity = model(
        hidden_states=torch.randn(1, tokens, 128),
        encoder_hidden_states=torch.randn(1, 16, text_dim),
        timestep=torch.tensor([0.5]),
        guidance=torch.tensor([4.0]) if guided else None,
        img_ids=torch.zeros(1, tokens, 4),
        txt_ids=torch.zeros(1, 16, 4),
    ).sample
    model.proj_out.weight *= VELOCITY_STD / velocity.std()
    return model


@torch.no_grad()
def vae() -> AutoencoderKLFlux2:
    """FLUX.2's VAE layout (32 channels, 8 times smaller), eight channels wide throughout."""
    widths = [8, 8, 8, 8]
    model = AutoencoderKLFlux2(block_out_channels=widths, layers_per_block=1, norm_num_groups=4).eval()
    model.requires_grad_(False)
    for upsampler in (block.upsamplers[0] for block in model.decoder.up_blocks if block.upsamplers):
        blur(upsampler.conv)
    last = model.decoder.conv_out
    blur(last)
    rescale(last, FAINT)
    stretch_colours(last, model.decode(torch.randn(1, 32, 16, 16)).sample)
    return model
