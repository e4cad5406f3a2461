"""What modules of Krea 2 are called in its own release and in ComfyUI, and hence in most LoRA files."""

from __future__ import annotations

import re

BLOCKS = ((r"transformer_blocks\.(\d+)", r"blocks.\1"), (r"text_fusion\.(\w+\.\d+)", r"txtfusion.\1"))
INSIDE = (
    (r"attn\.to_([qkv])", r"attn.w\2"),
    (r"attn\.to_out\.0", r"attn.wo"),
    (r"attn\.to_gate", r"attn.gate"),
    (r"attn\.norm_([qk])", r"attn.qknorm.\2norm"),
    (r"ff\.(gate|up|down)", r"mlp.\2"),
    (r"norm1", "prenorm"),
    (r"norm2", "postnorm"),
    (r"scale_shift_table", "mod.lin"),
)
"""Blocks of either kind, and what is in them."""

AROUND = (
    (r"text_fusion\.projector", "txtfusion.projector"),
    (r"img_in", "first"),
    (r"time_embed\.linear_1", "tmlp.0"),
    (r"time_embed\.linear_2", "tmlp.2"),
    (r"time_mod_proj", "tproj.1"),
    (r"txt_in\.norm", "txtmlp.0"),
    (r"txt_in\.linear_1", "txtmlp.1"),
    (r"txt_in\.linear_2", "txtmlp.3"),
    (r"final_layer\.(linear|norm)", r"last.\1"),
    (r"final_layer\.scale_shift_table", "last.modulation.lin"),
)

ORIGINAL_NAMES = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        *((rf"{block}\.{part}", f"{own}.{name}") for block, own in BLOCKS for part, name in INSIDE),
        *AROUND,
    )
)
"""Diffusers module name -> name in Krea 2's own release. Nothing is fused, nothing swapped."""
