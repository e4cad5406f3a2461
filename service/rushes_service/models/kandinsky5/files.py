"""How Kandinsky 5's transformer is read from a single file: diffusers, the release and ComfyUI name it alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rushes_service.models.loading.build_plans import TRANSFORMER_PREFIXES, BuildPlan
from rushes_service.models.loading.files.rules import unchanged
from rushes_service.models.loading.files.shapes import Config, Shapes

PATCH = 2
"""Latents per side of a token."""


def transformer_config(s: Shapes, _base: Mapping[str, Any]) -> Config:
    """Kandinsky 5 Lite or Pro, for clips or for pictures."""
    width, text = s.shape("text_embeddings.in_layer.weight")
    inputs = s.columns("visual_embeddings.in_layer.weight") // PATCH**2
    channels = s.rows("out_layer.out_layer.weight") // PATCH**2
    size = s.rows("visual_transformer_blocks.0.self_attention.query_norm.weight")
    return {
        "in_visual_dim": channels,
        "out_visual_dim": channels,
        "in_text_dim": text,
        "in_text_dim2": s.columns("pooled_text_embeddings.in_layer.weight"),
        "time_dim": s.rows("time_embeddings.in_layer.weight"),
        "model_dim": width,
        "ff_dim": s.rows("visual_transformer_blocks.0.feed_forward.in_layer.weight"),
        "num_text_blocks": s.count(r"text_transformer_blocks\.(\d+)\."),
        "num_visual_blocks": s.count(r"visual_transformer_blocks\.(\d+)\."),
        # A quarter of each head is for time, the rest for row and column.
        "axes_dims": [size // 4, size * 3 // 8, size * 3 // 8],
        "visual_cond": inputs == 2 * channels + 1,
    }


BUILD_PLANS = (
    BuildPlan(
        "Kandinsky5Transformer3DModel",
        transformer_config,
        unchanged,
        anchors=("model_dim",),
        prefixes=TRANSFORMER_PREFIXES,
        unused=r"(^|\.)args(_\d)?$|\.freqs$",
    ),
)
