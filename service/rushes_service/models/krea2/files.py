"""How Krea 2's transformer is read from a single file, in its own names or in diffusers'."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rushes_service.lora.targets import renamed
from rushes_service.models.krea2.names import ORIGINAL_NAMES
from rushes_service.models.loading.build_plans import TRANSFORMER_PREFIXES, BuildPlan
from rushes_service.models.loading.files.naming import Rule
from rushes_service.models.loading.files.shapes import Config, Shapes, heads


def transformer_config(s: Shapes, _base: Mapping[str, Any]) -> Config:
    """Krea 2, Raw or Turbo, which differ in nothing but their numbers."""
    width, channels = s.shape("first.weight", "img_in.weight")
    size = s.rows("blocks.0.attn.qknorm.qnorm.scale", "transformer_blocks.0.attn.norm_q.weight")
    return {
        "in_channels": channels,
        "num_layers": s.count(r"(?:transformer_)?blocks\.(\d+)\."),
        "attention_head_dim": size,
        "num_attention_heads": heads(width, size, s.path),
        "num_key_value_heads": heads(
            s.rows("blocks.0.attn.wk.weight", "transformer_blocks.0.attn.to_k.weight"), size, s.path
        ),
        "intermediate_size": s.rows("blocks.0.mlp.up.weight", "transformer_blocks.0.ff.up.weight"),
        "timestep_embed_dim": s.columns("tmlp.0.weight", "time_embed.linear_1.weight"),
        **text_config(s),
    }


def text_config(s: Shapes) -> Config:
    """The part that makes one sequence of a text's many hidden states."""
    first, other = "txtfusion.layerwise_blocks.0", "text_fusion.layerwise_blocks.0"
    width, size = (
        s.rows(f"{first}.{own}.scale", f"{other}.{name}.weight")
        for own, name in (("prenorm", "norm1"), ("attn.qknorm.qnorm", "attn.norm_q"))
    )
    return {
        "text_hidden_dim": width,
        "num_text_layers": s.columns("txtfusion.projector.weight", "text_fusion.projector.weight"),
        "text_num_attention_heads": heads(width, size, s.path),
        "text_num_key_value_heads": heads(s.rows(f"{first}.attn.wk.weight", f"{other}.attn.to_k.weight"), size, s.path),
        "text_intermediate_size": s.rows(f"{first}.mlp.up.weight", f"{other}.ff.up.weight"),
        "num_layerwise_text_blocks": s.count(r"te?xt_?fusion\.layerwise_blocks\.(\d+)\."),
        "num_refiner_text_blocks": s.count(r"te?xt_?fusion\.refiner_blocks\.(\d+)\."),
    }


def transformer_rule(_config: Mapping[str, Any]) -> Rule:
    """Krea 2 as released: as its modules are called, and norms have a `scale`."""

    def rule(name: str) -> str:
        module, _, parameter = name.rpartition(".")
        if parameter == "weight" and "norm" in module.rpartition(".")[2]:
            return f"{renamed(module, ORIGINAL_NAMES)}.scale"
        return renamed(name, ORIGINAL_NAMES)

    return rule


BUILD_PLANS = (
    BuildPlan(
        "Krea2Transformer2DModel",
        transformer_config,
        transformer_rule,
        anchors=("attention_head_dim",),
        prefixes=TRANSFORMER_PREFIXES,
    ),
)
