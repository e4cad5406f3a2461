"""How Qwen-Image's transformer is read from a single file: diffusers, the release and ComfyUI name it alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rushes_service.models.loading.build_plans import TRANSFORMER_PREFIXES, BuildPlan
from rushes_service.models.loading.files.rules import unchanged
from rushes_service.models.loading.files.shapes import Config, Shapes, heads

EDIT_2511_SIGN = "__index_timestep_zero__"
"""A tensor by which ComfyUI tells Qwen-Image-Edit-2511 from its elders; it holds nothing."""


def transformer_config(s: Shapes, _base: Mapping[str, Any]) -> Config:
    """Qwen-Image of any kind, also with fewer blocks than were published."""
    width, channels = s.shape("img_in.weight")
    size = s.rows("transformer_blocks.0.attn.norm_q.weight")
    layered = s.has("time_text_embed.addition_t_embedding.weight")
    return {
        "num_attention_heads": heads(width, size, s.path),
        "attention_head_dim": size,
        "in_channels": channels,
        "num_layers": s.count(r"transformer_blocks\.(\d+)\."),
        "joint_attention_dim": s.columns("txt_in.weight"),
        "use_additional_t_cond": layered,
        "use_layer3d_rope": layered,
        **({"zero_cond_t": True} if s.has(EDIT_2511_SIGN) else {}),
    }


BUILD_PLANS = (
    BuildPlan(
        "QwenImageTransformer2DModel",
        transformer_config,
        unchanged,
        anchors=("attention_head_dim",),
        prefixes=TRANSFORMER_PREFIXES,
        unused=rf"^{EDIT_2511_SIGN}$",
    ),
)
