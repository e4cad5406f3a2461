"""A tiny Krea 2 model with random weights: real classes, no network, below 2 MB. See `tiny_parts`."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, Krea2Pipeline, Krea2Transformer2DModel

from rushes_service.models.llm.qwen3_vl import krea2_cut
from rushes_service.models.llm.tiny import QWEN3_VL_WIDTH, qwen3_vl, qwen_tokenizer
from rushes_service.models.tiny_parts import VELOCITY_STD, build_once, rescale
from rushes_service.models.vae.tiny import qwen_image_vae

RECIPE = 1
"""Raised when a change here makes different weights."""

PROMPT_GAIN = 8.0
"""Makes the prompt show in the picture."""

AXES = (4, 6, 6)
"""Rotary dimensions of each head for text, row and column."""

TEXT_LAYERS = 12


def build_tiny_krea2(directory: Path, *, seed: int = 0) -> Path:
    """Write a complete `Krea2Pipeline` directory to `directory` and return it; as `build_tiny_wan`.

    Raises:
        ConfigError: `directory` exists and holds something else.
    """
    recipe = json.dumps({"recipe": RECIPE, "family": "krea2", "seed": seed})
    return build_once(directory, recipe, pipeline, seed=seed)


def pipeline() -> Krea2Pipeline:
    """The tiny pipeline in float32 on the CPU."""
    words = qwen_tokenizer(krea2_cut())
    return Krea2Pipeline(
        tokenizer=words,
        text_encoder=qwen3_vl(words),
        transformer=transformer(),
        vae=qwen_image_vae(),
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
    )


@torch.no_grad()
def transformer() -> Krea2Transformer2DModel:
    """Two blocks, 32 wide, scaled so that the velocity it predicts is as large as the noise."""
    heads = {"attention_head_dim": sum(AXES), "num_attention_heads": 2, "num_key_value_heads": 1}
    texts = {"text_num_attention_heads": 2, "text_num_key_value_heads": 2, "text_intermediate_size": 32}
    model = Krea2Transformer2DModel(
        num_layers=2,
        intermediate_size=64,
        timestep_embed_dim=32,
        text_hidden_dim=QWEN3_VL_WIDTH,
        num_text_layers=TEXT_LAYERS,
        axes_dims_rope=AXES,
        **heads,
        **texts,
    ).eval()
    model.requires_grad_(False)
    rescale(model.txt_in.linear_2, PROMPT_GAIN)
    for table in (model.final_layer, *model.transformer_blocks):
        table.scale_shift_table.normal_(std=0.5)  # zeros otherwise
    velocity = model(
        hidden_states=torch.randn(1, 16, 64),
        encoder_hidden_states=torch.randn(1, 8, TEXT_LAYERS, QWEN3_VL_WIDTH),
        timestep=torch.tensor([0.5]),
        position_ids=Krea2Pipeline.prepare_position_ids(8, 4, 4, torch.device("cpu")),
    ).sample
    rescale(model.final_layer.linear, VELOCITY_STD / velocity.std())
    return model
