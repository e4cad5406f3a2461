"""Which model family a file's keys look like: for the message when they fit nothing."""

from __future__ import annotations

import re
from collections.abc import Iterable

PATTERNS: tuple[tuple[str, str], ...] = (
    ("Wan", r"(^|[._])blocks[._]\d+[._](self_attn|cross_attn|attn[12]|ffn)"),
    ("HunyuanVideo or SkyReels", r"double_blocks[._]\d+[._](img|txt)_(attn_qkv|mod_linear|mlp_fc\d)"),
    ("HunyuanVideo or SkyReels", r"individual_token_refiner"),
    ("FLUX", r"double_blocks[._]\d+[._](img|txt)_(attn[._]|mod_lin([._]|$)|mlp[._]\d)"),
    ("FLUX", r"single_blocks[._]\d+[._]modulation_lin([._]|$)"),
    ("FLUX or HunyuanVideo", r"(double|single)_blocks[._]\d+"),
    ("FramePack", r"^lora_unet_(single_)?transformer_blocks_\d+_(attn|ff|norm|proj)"),
    ("FLUX, HunyuanVideo or FramePack", r"(^|[._])(single_)?transformer_blocks[._]\d+[._](attn|ff)"),
    ("Stable Diffusion", r"(down_blocks|up_blocks|mid_block|input_blocks|output_blocks|lora_te\d?_)"),
)
"""First match wins for each key; the more telling patterns stand first."""


def guess_family(keys: Iterable[str]) -> str | None:
    """The family that most keys look like, or None."""
    votes: dict[str, int] = {}
    for key in keys:
        for family, pattern in PATTERNS:
            if re.search(pattern, key):
                votes[family] = votes.get(family, 0) + 1
                break
    return max(votes, key=lambda family: votes[family]) if votes else None
