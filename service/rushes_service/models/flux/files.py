"""How FLUX's single files are read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rushes_service.models.flux.names import ORIGINAL_NAMES
from rushes_service.models.loading.build_plans import TRANSFORMER_PREFIXES, BuildPlan
from rushes_service.models.loading.files.rules import renaming
from rushes_service.models.loading.files.shapes import Config, Shapes, heads


def transformer_config(s: Shapes, _base: Mapping[str, Any]) -> Config:
    """FLUX in the names of its release."""
    width, channels = s.shape("img_in.weight")
    size = s.rows("double_blocks.0.img_attn.norm.query_norm.scale", "double_blocks.0.img_attn.norm.query_norm.weight")
    return {
        "num_attention_heads": heads(width, size, s.path),
        "attention_head_dim": size,
        "in_channels": channels,
        "num_layers": s.count(r"double_blocks\.(\d+)\."),
        "num_single_layers": s.count(r"single_blocks\.(\d+)\."),
        "joint_attention_dim": s.columns("txt_in.weight"),
        "pooled_projection_dim": s.columns("vector_in.in_layer.weight"),
        "guidance_embeds": s.has("guidance_in.in_layer.weight"),
    }


BUILD_PLANS = (
    BuildPlan(
        "FluxTransformer2DModel",
        transformer_config,
        renaming(ORIGINAL_NAMES),
        anchors=("attention_head_dim",),
        prefixes=TRANSFORMER_PREFIXES,
    ),
)
