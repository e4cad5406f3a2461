"""How text and image encoders are read from single files."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from rushes_service.lora.targets import renamed
from rushes_service.models.loading.build_plans import BuildPlan
from rushes_service.models.loading.files.naming import Rule
from rushes_service.models.loading.files.rules import substituted, unchanged
from rushes_service.models.loading.files.shapes import Config, Shapes, heads

TOWER_PREFIXES = ("visual.", "vision_model.", "text_model.")


def llama_config(s: Shapes, base: Mapping[str, Any]) -> Config:
    """Llama's decoder."""
    vocabulary, width = s.shape("embed_tokens.weight")
    size = base.get("head_dim") or base["hidden_size"] // base["num_attention_heads"]
    return {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "num_attention_heads": heads(s.rows("layers.0.self_attn.q_proj.weight"), size, s.path),
        "num_key_value_heads": heads(s.rows("layers.0.self_attn.k_proj.weight"), size, s.path),
        "intermediate_size": s.rows("layers.0.mlp.gate_proj.weight"),
        "num_hidden_layers": s.count(r"layers\.(\d+)\."),
    }


def clip_text_config(s: Shapes, base: Mapping[str, Any]) -> Config:
    """CLIP's text encoder."""
    vocabulary, width = s.shape("embeddings.token_embedding.weight")
    return {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "num_attention_heads": heads(width, base["hidden_size"] // base["num_attention_heads"], s.path),
        "intermediate_size": s.rows("encoder.layers.0.mlp.fc1.weight"),
        "num_hidden_layers": s.count(r"encoder\.layers\.(\d+)\."),
        "max_position_embeddings": s.rows("embeddings.position_embedding.weight"),
    }


def t5_config(s: Shapes, _base: Mapping[str, Any]) -> Config:
    """The encoders of T5 and UMT5."""
    vocabulary, width = s.shape("shared.weight", "token_embedding.weight", "encoder.embed_tokens.weight")
    first, second = "encoder.block.0.layer.0.SelfAttention", "encoder.block.0.layer.1.DenseReluDense"
    buckets, count = s.shape(f"{first}.relative_attention_bias.weight", "blocks.0.pos_embedding.embedding.weight")
    return {
        "vocab_size": vocabulary,
        "d_model": width,
        "num_heads": count,
        "d_kv": s.rows(f"{first}.q.weight", "blocks.0.attn.q.weight") // count,
        "d_ff": s.rows(f"{second}.wi_0.weight", "blocks.0.ffn.fc1.weight"),
        "num_layers": s.count(r"(?:encoder\.)?blocks?\.(\d+)\."),
        "relative_attention_num_buckets": buckets,
    }


def vision_tower_config(s: Shapes, base: Mapping[str, Any]) -> Config:
    """Image encoders: CLIP's, which has one token more than patches, and SigLIP's."""
    names = ("embeddings.patch_embedding.weight", "patch_embedding.weight")
    places = s.shape("embeddings.position_embedding.weight", "pos_embedding")
    width, _, patch, _ = s.shape(*names)
    side = math.isqrt(math.prod(places[:-1]) - s.has("embeddings.class_embedding", "cls_embedding"))
    fits = base.get("image_size", 0) // patch == side  # SigLIP's patches leave a margin out
    return {
        "hidden_size": width,
        "num_attention_heads": heads(width, base["hidden_size"] // base["num_attention_heads"], s.path),
        "intermediate_size": s.rows("encoder.layers.0.mlp.fc1.weight", "transformer.0.mlp.0.weight"),
        "num_hidden_layers": s.count(r"(?:encoder\.layers|transformer)\.(\d+)\."),
        "patch_size": patch,
        "image_size": base["image_size"] if fits else side * patch,
    }


def umt5_rule(_config: Mapping[str, Any]) -> Rule:
    """Wan's copy of UMT5's encoder."""
    return substituted(
        (
            (r"^shared\.", "token_embedding."),
            (r"^encoder\.embed_tokens\.", "token_embedding."),
            (r"^encoder\.final_layer_norm\.", "norm."),
            (r"^encoder\.block\.(\d+)\.layer\.0\.layer_norm\.", r"blocks.\1.norm1."),
            (r"^encoder\.block\.(\d+)\.layer\.1\.layer_norm\.", r"blocks.\1.norm2."),
            (
                r"^encoder\.block\.(\d+)\.layer\.0\.SelfAttention\.relative_attention_bias\.",
                r"blocks.\1.pos_embedding.embedding.",
            ),
            (r"^encoder\.block\.(\d+)\.layer\.0\.SelfAttention\.([qkvo])\.", r"blocks.\1.attn.\2."),
            (r"^encoder\.block\.(\d+)\.layer\.1\.DenseReluDense\.wi_0\.", r"blocks.\1.ffn.gate.0."),
            (r"^encoder\.block\.(\d+)\.layer\.1\.DenseReluDense\.wi_1\.", r"blocks.\1.ffn.fc1."),
            (r"^encoder\.block\.(\d+)\.layer\.1\.DenseReluDense\.wo\.", r"blocks.\1.ffn.fc2."),
        )
    )


def t5_rule(_config: Mapping[str, Any]) -> Rule:
    """T5 as published; its embedding is stored once."""
    return substituted(((r"^encoder\.embed_tokens\.", "shared."),))


def without_tower(name: str) -> str:
    """A name without what older releases of transformers put before every part of a tower."""
    return re.sub(r"^(text_model|vision_model)\.", "", name)


def tower_rule(_config: Mapping[str, Any]) -> Rule:
    """CLIP and SigLIP as transformers names them."""
    return without_tower


OPEN_CLIP_NAMES = tuple(
    (re.compile(pattern), name)
    for pattern, name in (
        (r"embeddings\.class_embedding", "cls_embedding"),
        (r"embeddings\.patch_embedding", "patch_embedding"),
        (r"embeddings\.position_embedding\.weight", "pos_embedding"),
        (r"pre_layrnorm", "pre_norm"),
        (r"post_layernorm", "post_norm"),
        (r"encoder\.layers\.(\d+)\.layer_norm([12])", r"transformer.\1.norm\2"),
        (r"encoder\.layers\.(\d+)\.self_attn\.q_proj", r"transformer.\1.attn.to_qkv#0"),
        (r"encoder\.layers\.(\d+)\.self_attn\.k_proj", r"transformer.\1.attn.to_qkv#1"),
        (r"encoder\.layers\.(\d+)\.self_attn\.v_proj", r"transformer.\1.attn.to_qkv#2"),
        (r"encoder\.layers\.(\d+)\.self_attn\.out_proj", r"transformer.\1.attn.proj"),
        (r"encoder\.layers\.(\d+)\.mlp\.fc1", r"transformer.\1.mlp.0"),
        (r"encoder\.layers\.(\d+)\.mlp\.fc2", r"transformer.\1.mlp.2"),
    )
)
"""transformers' names of CLIP's image encoder -> names in Wan's `.pth` of it."""


def clip_vision_rule(_config: Mapping[str, Any]) -> Rule:
    """CLIP's image encoder in Wan's release, or as transformers names it."""
    return lambda name: renamed(without_tower(name), OPEN_CLIP_NAMES)


BUILD_PLANS = (
    BuildPlan("UMT5EncoderModel", t5_config, umt5_rule, unused=r"^(decoder\.|lm_head)"),
    BuildPlan("T5EncoderModel", t5_config, t5_rule, unused=r"^(decoder\.|lm_head|encoder\.embed_tokens)"),
    BuildPlan(
        "CLIPTextModel",
        clip_text_config,
        tower_rule,
        anchors=("hidden_size",),
        prefixes=("text_model.",),
        unused=r"position_ids|text_projection|logit_scale",
    ),
    BuildPlan(
        "LlamaModel",
        llama_config,
        unchanged,
        anchors=("hidden_size",),
        prefixes=("language_model.model.", "model.language_model.", "model."),
        unused=r"lm_head|inv_freq",
    ),
    BuildPlan(
        "CLIPVisionModel",
        vision_tower_config,
        clip_vision_rule,
        anchors=("hidden_size",),
        prefixes=TOWER_PREFIXES,
        unused=r"^head$|position_ids",
    ),
    BuildPlan(
        "SiglipVisionModel",
        vision_tower_config,
        tower_rule,
        anchors=("hidden_size",),
        prefixes=TOWER_PREFIXES,
        unused=r"position_ids",
    ),
)
