"""How the VAE of latent diffusion is read from a single file: FLUX's and other image models' have its layout."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from rushes_service.models.loading.build_plans import VAE_PREFIXES, BuildPlan
from rushes_service.models.loading.files.naming import Rule
from rushes_service.models.loading.files.rules import substituted
from rushes_service.models.loading.files.shapes import Config, Shapes
from rushes_service.models.vae.wan_names import wan_vae_rule


def block_widths(s: Shapes, end: str) -> list[int]:
    """Channels of an encoder's levels in the names of diffusers or of latent diffusion; `end` is a convolution's."""
    levels = s.count(r"encoder\.down(?:_blocks)?\.(\d+)\.")
    return [
        s.rows(f"encoder.down_blocks.{level}.resnets.0.conv1.{end}", f"encoder.down.{level}.block.0.conv1.{end}")
        for level in range(levels)
    ]


def blocks_per_level(s: Shapes) -> int:
    """Residual blocks on one level of an encoder."""
    return s.count(r"encoder\.down(?:_blocks)?\.0\.(?:resnets|block)\.(\d+)\.")


def image_vae_config(s: Shapes, _base: Mapping[str, Any]) -> Config:
    """The VAE of an image model."""
    widths = block_widths(s, "weight")
    return {
        "block_out_channels": widths,
        "down_block_types": ["DownEncoderBlock2D"] * len(widths),
        "up_block_types": ["UpDecoderBlock2D"] * len(widths),
        "layers_per_block": blocks_per_level(s),
        "latent_channels": s.columns("decoder.conv_in.weight"),
        "use_quant_conv": s.has("quant_conv.weight"),
        "use_post_quant_conv": s.has("post_quant_conv.weight"),
    }


def latent_diffusion_rule(config: Mapping[str, Any]) -> Rule:
    """The VAE of latent diffusion, from which FLUX's and ComfyUI's copy of HunyuanVideo's have their names."""
    last = len(config["block_out_channels"]) - 1

    def upwards(match: re.Match[str]) -> str:
        inner = f"block.{match[3]}" if match[2] == "resnets" else "upsample"
        return f"decoder.up.{last - int(match[1])}.{inner}."

    return substituted(
        (
            (r"^decoder\.up_blocks\.(\d+)\.(resnets|upsamplers)\.(\d+)\.", upwards),
            (r"^encoder\.down_blocks\.(\d+)\.resnets\.(\d+)\.", r"encoder.down.\1.block.\2."),
            (r"^encoder\.down_blocks\.(\d+)\.downsamplers\.0\.", r"encoder.down.\1.downsample."),
            (r"\.mid_block\.resnets\.(\d+)\.", lambda match: f".mid.block_{int(match[1]) + 1}."),
            (r"\.mid_block\.attentions\.0\.group_norm\.", ".mid.attn_1.norm."),
            (r"\.mid_block\.attentions\.0\.to_([qkv])\.", r".mid.attn_1.\1."),
            (r"\.mid_block\.attentions\.0\.to_out\.0\.", ".mid.attn_1.proj_out."),
            (r"\.conv_shortcut\.", ".nin_shortcut."),
            (r"\.conv_norm_out\.", ".norm_out."),
        )
    )


def qwen_vae_config(s: Shapes, base: Mapping[str, Any]) -> Config:
    """Qwen-Image's VAE, for pictures or for layers with transparency."""
    first = ("encoder.conv1.weight", "encoder.conv_in.weight")
    return {
        "base_dim": s.rows(*first) // base["dim_mult"][0],
        "input_channels": s.columns(*first),
        "z_dim": s.rows("conv2.weight", "post_quant_conv.weight"),
    }


BUILD_PLANS = (
    BuildPlan(
        "AutoencoderKL",
        image_vae_config,
        latent_diffusion_rule,
        anchors=("block_out_channels",),
        prefixes=VAE_PREFIXES,
    ),
    BuildPlan("AutoencoderKLQwenImage", qwen_vae_config, wan_vae_rule, anchors=("z_dim",), prefixes=VAE_PREFIXES),
)
