"""How HunyuanVideo's and SkyReels' single files are read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rushes_service.models.hunyuan.names import ORIGINAL_NAMES
from rushes_service.models.loading.build_plans import TRANSFORMER_PREFIXES, VAE_PREFIXES, BuildPlan
from rushes_service.models.loading.files.rules import renaming
from rushes_service.models.loading.files.shapes import Config, Shapes, heads
from rushes_service.models.vae.files import block_widths, blocks_per_level, latent_diffusion_rule


def transformer_config(s: Shapes, base: Mapping[str, Any]) -> Config:
    """HunyuanVideo and SkyReels in the names of their release."""
    width, channels, patch_t, patch, _ = s.shape("img_in.proj.weight")
    size = s.rows("double_blocks.0.img_attn_q_norm.weight")
    return {
        "num_attention_heads": heads(width, size, s.path),
        "attention_head_dim": size,
        "in_channels": channels,
        "out_channels": s.rows("final_layer.linear.weight") // (patch_t * patch**2),
        "patch_size": patch,
        "patch_size_t": patch_t,
        "num_layers": s.count(r"double_blocks\.(\d+)\."),
        "num_single_layers": s.count(r"single_blocks\.(\d+)\."),
        "num_refiner_layers": s.count(r"txt_in\.individual_token_refiner\.blocks\.(\d+)\."),
        "mlp_ratio": s.rows("double_blocks.0.img_mlp.fc1.weight") / width,
        "text_embed_dim": s.columns("txt_in.input_embedder.weight"),
        "pooled_projection_dim": s.columns("vector_in.in_layer.weight"),
        "guidance_embeds": s.has("guidance_in.mlp.0.weight"),
        "image_condition_type": "latent_concat" if channels == 2 * base["out_channels"] + 1 else None,
    }


def vae_config(s: Shapes, _base: Mapping[str, Any]) -> Config:
    """HunyuanVideo's VAE, also FramePack's and SkyReels'."""
    return {
        "block_out_channels": block_widths(s, "conv.weight"),
        "layers_per_block": blocks_per_level(s),
        "latent_channels": s.columns("decoder.conv_in.conv.weight"),
    }


BUILD_PLANS = (
    BuildPlan(
        "HunyuanVideoTransformer3DModel",
        transformer_config,
        renaming(ORIGINAL_NAMES),
        anchors=("attention_head_dim",),
        prefixes=TRANSFORMER_PREFIXES,
    ),
    BuildPlan(
        "AutoencoderKLHunyuanVideo",
        vae_config,
        latent_diffusion_rule,
        anchors=("block_out_channels",),
        prefixes=VAE_PREFIXES,
    ),
)
