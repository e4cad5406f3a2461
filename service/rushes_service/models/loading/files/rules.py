"""What first releases called the parts of a model, told from the names that diffusers and transformers use."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rushes_service.lora.targets import renamed
from rushes_service.models.flux.names import ORIGINAL_NAMES as FLUX_NAMES
from rushes_service.models.hunyuan.names import ORIGINAL_NAMES as HUNYUAN_NAMES
from rushes_service.models.loading.files.naming import Rule
from rushes_service.models.wan.names import ORIGINAL_NAMES as WAN_NAMES

Replacement = str | Callable[[re.Match[str]], str]


def same(name: str) -> str:
    """Files that name things as the live model does."""
    return name


def table(rules: Sequence[tuple[re.Pattern[str], str]]) -> Rule:
    """A rule out of a family's table of modules."""
    return lambda name: renamed(name, rules)


def wan_transformer(_config: Mapping[str, Any]) -> Rule:
    """Wan's release."""
    return table(WAN_NAMES)


def hunyuan_transformer(_config: Mapping[str, Any]) -> Rule:
    """HunyuanVideo's release, and SkyReels'."""
    return table(HUNYUAN_NAMES)


def flux_transformer(_config: Mapping[str, Any]) -> Rule:
    """Black Forest Labs' release."""
    return table(FLUX_NAMES)


def unchanged(_config: Mapping[str, Any]) -> Rule:
    """As the live model names them."""
    return same


def substituted(pairs: Sequence[tuple[str, Replacement]]) -> Rule:
    """A rule that puts every pattern's replacement into a name, one after another."""
    compiled = [(re.compile(pattern), replacement) for pattern, replacement in pairs]

    def rule(name: str) -> str:
        for pattern, replacement in compiled:
            name = pattern.sub(replacement, name)
        return name

    return rule


WAN_RESNET = (
    (r"\.norm1\.", ".residual.0."),
    (r"\.conv1\.", ".residual.2."),
    (r"\.norm2\.", ".residual.3."),
    (r"\.conv2\.", ".residual.6."),
    (r"\.conv_shortcut\.", ".shortcut."),
)


def wan_vae(config: Mapping[str, Any]) -> Rule:
    """Wan's VAE: residual blocks numbered through, each a list of layers."""
    per_block = config["num_res_blocks"] + 2  # one block more in the decoder, and what doubles the size

    def decoder_block(match: re.Match[str]) -> str:
        block, inner = int(match[1]), match[3]
        position = per_block - 1 if match[2] == "upsamplers" else int(inner)
        return f"decoder.upsamples.{block * per_block + position}."

    resnets = substituted(WAN_RESNET)
    places = substituted(
        (
            (r"^(encoder|decoder)\.mid_block\.resnets\.0\.", r"\1.middle.0."),
            (r"^(encoder|decoder)\.mid_block\.attentions\.0\.", r"\1.middle.1."),
            (r"^(encoder|decoder)\.mid_block\.resnets\.1\.", r"\1.middle.2."),
            (r"^encoder\.down_blocks\.", "encoder.downsamples."),
            (r"^decoder\.up_blocks\.(\d+)\.(resnets|upsamplers)\.(\d+)\.", decoder_block),
            (r"^(encoder|decoder)\.conv_in\.", r"\1.conv1."),
            (r"^(encoder|decoder)\.norm_out\.", r"\1.head.0."),
            (r"^(encoder|decoder)\.conv_out\.", r"\1.head.2."),
            (r"^quant_conv\.", "conv1."),
            (r"^post_quant_conv\.", "conv2."),
        )
    )

    def rule(name: str) -> str:
        if "_block" in name and "attentions" not in name:  # the outermost convolutions share names with inner ones
            name = resnets(name)
        return places(name)

    return rule


def ldm_vae(config: Mapping[str, Any]) -> Rule:
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


def umt5(_config: Mapping[str, Any]) -> Rule:
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


def t5(_config: Mapping[str, Any]) -> Rule:
    """T5 as published; its embedding is stored once."""
    return substituted(((r"^encoder\.embed_tokens\.", "shared."),))


def without_tower(name: str) -> str:
    """A name without what older releases of transformers put before every part of a tower."""
    return re.sub(r"^(text_model|vision_model)\.", "", name)


def tower(_config: Mapping[str, Any]) -> Rule:
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


def clip_vision(_config: Mapping[str, Any]) -> Rule:
    """CLIP's image encoder in Wan's release, or as transformers names it."""
    return lambda name: renamed(without_tower(name), OPEN_CLIP_NAMES)
