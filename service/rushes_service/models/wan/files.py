"""How Wan's single files are read: configurations from shapes, and the names of its first release."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from rushes_service.models.loading.build_plans import TRANSFORMER_PREFIXES, VAE_PREFIXES, BuildPlan
from rushes_service.models.loading.files.rules import renaming
from rushes_service.models.loading.files.shapes import Config, Shapes, heads
from rushes_service.models.vae.wan_names import wan_vae_rule
from rushes_service.models.wan.names import ORIGINAL_NAMES


def transformer_config(s: Shapes, base: Mapping[str, Any]) -> Config:
    """Wan of any kind; channels tell text to video (16), image to video (36) and Fun-Control (48) apart."""
    width, channels, *patch = s.shape("patch_embedding.weight")
    image = ("img_emb.proj.0.weight", "condition_embedder.image_embedder.norm1.weight")
    added = ("blocks.0.cross_attn.k_img.weight", "blocks.0.attn2.add_k_proj.weight")
    place = ("img_emb.emb_pos", "condition_embedder.image_embedder.pos_embed")
    return {
        "num_attention_heads": heads(width, base["attention_head_dim"], s.path),
        "in_channels": channels,
        "out_channels": s.rows("head.head.weight", "proj_out.weight") // math.prod(patch),
        "patch_size": patch,
        "num_layers": s.count(r"blocks\.(\d+)\."),
        "ffn_dim": s.rows("blocks.0.ffn.0.weight", "blocks.0.ffn.net.0.proj.weight"),
        "text_dim": s.columns("text_embedding.0.weight", "condition_embedder.text_embedder.linear_1.weight"),
        "freq_dim": s.columns("time_embedding.0.weight", "condition_embedder.time_embedder.linear_1.weight"),
        "cross_attn_norm": s.has("blocks.0.norm3.weight", "blocks.0.norm2.weight"),
        "image_dim": s.rows(*image) if s.has(*image) else None,
        "added_kv_proj_dim": s.columns(*added) if s.has(*added) else None,
        "pos_embed_seq_len": s.shape(*place)[1] if s.has(*place) else None,
    }


def vae_config(s: Shapes, base: Mapping[str, Any]) -> Config:
    """Wan2.1's VAE, which Wan2.2's large models share."""
    return {
        "base_dim": s.rows("encoder.conv1.weight", "encoder.conv_in.weight") // base["dim_mult"][0],
        "z_dim": s.rows("conv2.weight", "post_quant_conv.weight"),
        "is_residual": s.has(
            "encoder.downsamples.0.downsamples.0.residual.0.gamma", "encoder.down_blocks.0.resnets.0.norm1.gamma"
        ),
    }


BUILD_PLANS = (
    BuildPlan(
        "WanTransformer3DModel",
        transformer_config,
        renaming(ORIGINAL_NAMES),
        anchors=("num_attention_heads",),
        prefixes=TRANSFORMER_PREFIXES,
    ),
    BuildPlan("AutoencoderKLWan", vae_config, wan_vae_rule, anchors=("z_dim",), prefixes=VAE_PREFIXES),
)
