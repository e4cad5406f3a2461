"""How FLUX.2's single files are read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rushes_service.models.flux2.names import ORIGINAL_NAMES
from rushes_service.models.loading.build_plans import TRANSFORMER_PREFIXES, VAE_PREFIXES, BuildPlan
from rushes_service.models.loading.files.naming import Rule
from rushes_service.models.loading.files.rules import renaming, substituted
from rushes_service.models.loading.files.shapes import Config, Shapes, heads
from rushes_service.models.vae.files import image_vae_config, latent_diffusion_rule


def transformer_config(s: Shapes, _base: Mapping[str, Any]) -> Config:
    """FLUX.2 of any size, in the names of its release or in diffusers'."""
    width, channels = s.shape("img_in.weight", "x_embedder.weight")
    original = "double_blocks.0.img_attn.norm.query_norm"
    size = s.rows(f"{original}.scale", f"{original}.weight", "transformer_blocks.0.attn.norm_q.weight")
    return {
        "num_attention_heads": heads(width, size, s.path),
        "attention_head_dim": size,
        "in_channels": channels,
        "num_layers": s.count(r"(?:double|transformer)_blocks\.(\d+)\."),
        "num_single_layers": s.count(r"single_(?:transformer_)?blocks\.(\d+)\."),
        "joint_attention_dim": s.columns("txt_in.weight", "context_embedder.weight"),
        "guidance_embeds": s.has(
            "guidance_in.in_layer.weight", "time_guidance_embed.guidance_embedder.linear_1.weight"
        ),
    }


def vae_config(s: Shapes, base: Mapping[str, Any]) -> Config:
    """FLUX.2's VAE, in the names of its release or in diffusers'."""
    return {**image_vae_config(s, base), "use_quant_conv": True, "use_post_quant_conv": True}


def vae_rule(config: Mapping[str, Any]) -> Rule:
    """FLUX.2's VAE: that of latent diffusion, with its outermost convolutions inside encoder and decoder."""
    inner = latent_diffusion_rule(config)
    outer = substituted(
        ((r"^quant_conv\.", "encoder.quant_conv."), (r"^post_quant_conv\.", "decoder.post_quant_conv."))
    )
    return lambda name: outer(inner(name))


BUILD_PLANS = (
    BuildPlan(
        "Flux2Transformer2DModel",
        transformer_config,
        renaming(ORIGINAL_NAMES),
        anchors=("attention_head_dim",),
        prefixes=TRANSFORMER_PREFIXES,
    ),
    BuildPlan("AutoencoderKLFlux2", vae_config, vae_rule, anchors=("block_out_channels",), prefixes=VAE_PREFIXES),
)
