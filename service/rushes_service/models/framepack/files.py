"""How FramePack's single files are read; its release has diffusers' names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rushes_service.models.loading.build_plans import TRANSFORMER_PREFIXES, BuildPlan
from rushes_service.models.loading.files.rules import unchanged
from rushes_service.models.loading.files.shapes import Config, Shapes, heads


def transformer_config(s: Shapes, _base: Mapping[str, Any]) -> Config:
    """FramePack, whose release has diffusers' names."""
    width, channels, patch_t, patch, _ = s.shape("x_embedder.proj.weight")
    size = s.rows("transformer_blocks.0.attn.norm_q.weight")
    return {
        "num_attention_heads": heads(width, size, s.path),
        "attention_head_dim": size,
        "in_channels": channels,
        "out_channels": s.rows("proj_out.weight") // (patch_t * patch**2),
        "patch_size": patch,
        "patch_size_t": patch_t,
        "num_layers": s.count(r"transformer_blocks\.(\d+)\."),
        "num_single_layers": s.count(r"single_transformer_blocks\.(\d+)\."),
        "num_refiner_layers": s.count(r"context_embedder\.token_refiner\.refiner_blocks\.(\d+)\."),
        "mlp_ratio": s.rows("transformer_blocks.0.ff.net.0.proj.weight") / width,
        "text_embed_dim": s.columns("context_embedder.proj_in.weight"),
        "pooled_projection_dim": s.columns("time_text_embed.text_embedder.linear_1.weight"),
        "guidance_embeds": s.has("time_text_embed.guidance_embedder.linear_1.weight"),
        "has_clean_x_embedder": s.has("clean_x_embedder.proj.weight"),
        "has_image_proj": s.has("image_projection.up.weight"),
        "image_proj_dim": s.columns("image_projection.up.weight"),
    }


BUILD_PLANS = (
    BuildPlan(
        "HunyuanVideoFramepackTransformer3DModel",
        transformer_config,
        unchanged,
        anchors=("attention_head_dim",),
        prefixes=TRANSFORMER_PREFIXES,
    ),
)
