"""How language models are read from single files, or from the shards they are published as."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from rushes.errors import ModelError
from rushes_service.models.loading.build_plans import BuildPlan
from rushes_service.models.loading.files.naming import Rule
from rushes_service.models.loading.files.rules import substituted, unchanged
from rushes_service.models.loading.files.shapes import Config, Shapes, heads, unpublished


def decoder_config(s: Shapes, base: Mapping[str, Any], prefix: str = "") -> Config:
    """A decoder of Qwen's or Llama's kind, whose names begin with `prefix`."""
    vocabulary, width = s.shape(f"{prefix}embed_tokens.weight")
    size = base.get("head_dim") or base["hidden_size"] // base["num_attention_heads"]
    return {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "num_attention_heads": heads(s.rows(f"{prefix}layers.0.self_attn.q_proj.weight"), size, s.path),
        "num_key_value_heads": heads(s.rows(f"{prefix}layers.0.self_attn.k_proj.weight"), size, s.path),
        "intermediate_size": s.rows(f"{prefix}layers.0.mlp.gate_proj.weight"),
        "num_hidden_layers": s.count(rf"{re.escape(prefix)}layers\.(\d+)\."),
    }


def qwen_vl_config(s: Shapes, base: Mapping[str, Any]) -> Config:
    """Qwen2.5-VL in Qwen's or in ComfyUI's names.

    Raises:
        ModelError: its width is none that was published.
    """
    prefix = "model.language_model." if s.has("model.language_model.embed_tokens.weight") else "model."
    text, eyes = base["text_config"], base["vision_config"]
    found = decoder_config(s, text, prefix)
    if found["hidden_size"] != text["hidden_size"]:
        raise ModelError(unpublished(s.path, "hidden_size", found["hidden_size"]))
    depth = s.count(r"(?:model\.)?visual\.blocks\.(\d+)\.")
    return {"text_config": {**text, **found}, "vision_config": {**eyes, "depth": depth}}


def qwen_vl_rule(_config: Mapping[str, Any]) -> Rule:
    """Qwen2.5-VL in its first release and in ComfyUI: `model.layers` and `visual`."""
    return substituted(((r"^model\.language_model\.", "model."), (r"^model\.visual\.", "visual.")))


def qwen3_vl_config(s: Shapes, base: Mapping[str, Any]) -> Config:
    """Qwen3-VL in Qwen's, ComfyUI's or its own names.

    Raises:
        ModelError: its width is none that was published.
    """
    prefixes = ("model.language_model.", "language_model.", "model.")
    prefix = next((prefix for prefix in prefixes if s.has(f"{prefix}embed_tokens.weight")), prefixes[0])
    text, eyes = base["text_config"], base["vision_config"]
    found = decoder_config(s, text, prefix)
    if found["hidden_size"] != text["hidden_size"]:
        raise ModelError(unpublished(s.path, "hidden_size", found["hidden_size"]))
    depth = s.count(r"(?:model\.)?visual\.blocks\.(\d+)\.")
    return {"text_config": {**text, **found}, "vision_config": {**eyes, "depth": depth}}


def qwen3_vl_rule(_config: Mapping[str, Any]) -> Rule:
    """Qwen3-VL as published."""
    return substituted(((r"^(language_model|visual)\.", r"model.\1."),))


def qwen3_vl_comfyui_rule(_config: Mapping[str, Any]) -> Rule:
    """Qwen3-VL in ComfyUI: `model.layers` and `visual`."""
    return substituted(((r"^language_model\.", "model."),))


def mistral_config(s: Shapes, base: Mapping[str, Any]) -> Config:
    """Mistral Small with its eyes, as published in shards.

    Raises:
        ModelError: its width is none that was published.
    """
    text = base["text_config"]
    found = decoder_config(s, text, "language_model.model.")
    if found["hidden_size"] != text["hidden_size"]:
        raise ModelError(unpublished(s.path, "hidden_size", found["hidden_size"]))
    eyes = {**base["vision_config"], "num_hidden_layers": s.count(r"vision_tower\.transformer\.layers\.(\d+)\.")}
    return {"text_config": {**text, **found}, "vision_config": eyes}


def mistral_rule(_config: Mapping[str, Any]) -> Rule:
    """Mistral Small as published."""
    return substituted(
        (
            (r"^model\.language_model\.", "language_model.model."),
            (r"^model\.(vision_tower|multi_modal_projector)\.", r"\1."),
            (r"^lm_head\.", "language_model.lm_head."),
        )
    )


BUILD_PLANS = (
    BuildPlan("Mistral3ForConditionalGeneration", mistral_config, mistral_rule),
    BuildPlan("Qwen2_5_VLForConditionalGeneration", qwen_vl_config, qwen_vl_rule),
    BuildPlan(
        "Qwen3VLModel",
        qwen3_vl_config,
        qwen3_vl_rule,
        unused=r"lm_head|inv_freq",
        other_rules=(qwen3_vl_comfyui_rule,),
    ),
    BuildPlan(
        "Qwen3Model",
        decoder_config,
        unchanged,
        anchors=("hidden_size",),
        prefixes=("model.",),
        unused=r"lm_head|inv_freq",
    ),
)
