"""What modules of Wan's VAE are called in its first release and in ComfyUI. Qwen-Image's VAE is a copy of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from rushes_service.models.loading.files.naming import Rule
from rushes_service.models.loading.files.rules import Replacement, substituted

Pairs = tuple[tuple[str, Replacement], ...]

WAN_RESNET = (
    (r"\.norm1\.", ".residual.0."),
    (r"\.conv1\.", ".residual.2."),
    (r"\.norm2\.", ".residual.3."),
    (r"\.conv2\.", ".residual.6."),
    (r"\.conv_shortcut\.", ".shortcut."),
)


def wan_vae_rule(config: Mapping[str, Any]) -> Rule:
    """Wan's VAE: residual blocks numbered through, each a list of layers. `config` says how many on a level."""
    if config.get("is_residual"):
        return renamed_blocks(wan22_levels(config["num_res_blocks"]))
    return renamed_blocks(wan21_levels(config["num_res_blocks"]))


def wan22_levels(blocks: int) -> Pairs:
    """Wan2.2's levels are lists: of residual blocks, one more in the decoder, and of what changes the size."""
    return (
        (r"^encoder\.down_blocks\.(\d+)\.resnets\.(\d+)\.", r"encoder.downsamples.\1.downsamples.\2."),
        (r"^encoder\.down_blocks\.(\d+)\.downsampler\.", rf"encoder.downsamples.\1.downsamples.{blocks}."),
        (r"^decoder\.up_blocks\.(\d+)\.resnets\.(\d+)\.", r"decoder.upsamples.\1.upsamples.\2."),
        (r"^decoder\.up_blocks\.(\d+)\.upsampler\.", rf"decoder.upsamples.\1.upsamples.{blocks + 1}."),
    )


def wan21_levels(blocks: int) -> Pairs:
    """Wan2.1's blocks are numbered through."""
    per_block = blocks + 2  # one block more in the decoder, and what doubles the size

    def decoder_block(match: re.Match[str]) -> str:
        block, inner = int(match[1]), match[3]
        position = per_block - 1 if match[2] == "upsamplers" else int(inner)
        return f"decoder.upsamples.{block * per_block + position}."

    return (
        (r"^encoder\.down_blocks\.", "encoder.downsamples."),
        (r"^decoder\.up_blocks\.(\d+)\.(resnets|upsamplers)\.(\d+)\.", decoder_block),
    )


def renamed_blocks(levels: Pairs) -> Rule:
    """The rule of a VAE whose levels are named by `levels`."""
    resnets = substituted(WAN_RESNET)
    places = substituted(
        (
            (r"^(encoder|decoder)\.mid_block\.resnets\.0\.", r"\1.middle.0."),
            (r"^(encoder|decoder)\.mid_block\.attentions\.0\.", r"\1.middle.1."),
            (r"^(encoder|decoder)\.mid_block\.resnets\.1\.", r"\1.middle.2."),
            *levels,
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
