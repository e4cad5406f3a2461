"""What modules of Z-Image are called in its own release and in ComfyUI, and hence in some LoRA files."""

from __future__ import annotations

import re

ORIGINAL_NAMES = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"(.+)\.attention\.to_q", r"\1.attention.qkv#0"),
        (r"(.+)\.attention\.to_k", r"\1.attention.qkv#1"),
        (r"(.+)\.attention\.to_v", r"\1.attention.qkv#2"),
        (r"(.+)\.attention\.to_out\.0", r"\1.attention.out"),
        (r"(.+)\.attention\.norm_([qk])", r"\1.attention.\2_norm"),
        (r"all_x_embedder\.2-1", "x_embedder"),
        (r"all_final_layer\.2-1\.(.+)", r"final_layer.\1"),
    )
)
"""Diffusers module name -> name in Z-Image's own release; see `lora.targets` for what stands behind `#`."""
