"""How HunyuanVideo 1.5's single files are read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rushes_service.models.hunyuan15.names import COMFYUI_NAMES, ORIGINAL_NAMES
from rushes_service.models.loading.build_plans import TRANSFORMER_PREFIXES, VAE_PREFIXES, BuildPlan
from rushes_service.models.loading.files.naming import Rule
from rushes_service.models.loading.files.rules import renaming, substituted
from rushes_service.models.loading.files.shapes import Config, Shapes, heads
from rushes_service.models.vae.files import block_widths, blocks_per_level


def transformer_config(s: Shapes, _base: Mapping[str, Any]) -> Config:
    """The transformer in the names of its release, ComfyUI or diffusers."""
    width, channels, patch_t, patch, _ = s.shape("img_in.proj.weight", "x_embedder.proj.weight")
    size = s.rows("double_blocks.0.img_attn_q_norm.weight", "transformer_blocks.0.attn.norm_q.weight")
    glyphs = ("byt5_in.fc1.weight", "context_embedder_2.linear_1.weight")
    return {
        "num_attention_heads": heads(width, size, s.path),
        "attention_head_dim": size,
        "in_channels": channels,
        "out_channels": s.rows("final_layer.linear.weight", "proj_out.weight") // (patch_t * patch**2),
        "patch_size": patch,
        "patch_size_t": patch_t,
        "num_layers": s.count(r"(?:double|transformer)_blocks\.(\d+)\."),
        "num_refiner_layers": s.count(r".*token_refiner\.(?:refiner_)?blocks\.(\d+)\."),
        "mlp_ratio": s.rows("double_blocks.0.img_mlp.fc1.weight", "transformer_blocks.0.ff.net.0.proj.weight") / width,
        "text_embed_dim": s.columns("txt_in.input_embedder.weight", "context_embedder.proj_in.weight"),
        "text_embed_2_dim": s.columns(*glyphs),
        "glyph_hidden_dim": s.rows(*glyphs),
        "image_embed_dim": s.columns("vision_in.proj.1.weight", "image_embedder.linear_1.weight"),
    }


def vae_config(s: Shapes, _base: Mapping[str, Any]) -> Config:
    """HunyuanVideo 1.5's VAE."""
    return {
        "block_out_channels": block_widths(s, "conv.weight"),
        "layers_per_block": blocks_per_level(s),
        "latent_channels": s.columns("decoder.conv_in.conv.weight"),
    }


def vae_rule(_config: Mapping[str, Any]) -> Rule:
    """The release's names; unlike in latent diffusion's, the decoder's levels are numbered in their order."""
    return substituted(
        (
            (r"^decoder\.up_blocks\.(\d+)\.resnets\.(\d+)\.", r"decoder.up.\1.block.\2."),
            (r"^decoder\.up_blocks\.(\d+)\.upsamplers\.0\.", r"decoder.up.\1.upsample."),
            (r"^encoder\.down_blocks\.(\d+)\.resnets\.(\d+)\.", r"encoder.down.\1.block.\2."),
            (r"^encoder\.down_blocks\.(\d+)\.downsamplers\.0\.", r"encoder.down.\1.downsample."),
            (r"\.mid_block\.resnets\.(\d+)\.", lambda match: f".mid.block_{int(match[1]) + 1}."),
            (r"\.mid_block\.attentions\.0\.to_([qkv])\.", r".mid.attn_1.\1."),
            (r"\.mid_block\.attentions\.0\.", ".mid.attn_1."),
            (r"\.conv_shortcut\.", ".nin_shortcut."),
        )
    )


BUILD_PLANS = (
    BuildPlan(
        "HunyuanVideo15Transformer3DModel",
        transformer_config,
        renaming(ORIGINAL_NAMES),
        anchors=("attention_head_dim",),
        prefixes=TRANSFORMER_PREFIXES,
        other_rules=(renaming(COMFYUI_NAMES),),
    ),
    BuildPlan(
        "AutoencoderKLHunyuanVideo15", vae_config, vae_rule, anchors=("block_out_channels",), prefixes=VAE_PREFIXES
    ),
)
