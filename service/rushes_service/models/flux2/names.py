"""What modules of FLUX.2 are called in its own release, and hence in many LoRA files."""

from __future__ import annotations

import re

ORIGINAL_NAMES = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"transformer_blocks\.(\d+)\.attn\.to_q", r"double_blocks.\1.img_attn.qkv#0"),
        (r"transformer_blocks\.(\d+)\.attn\.to_k", r"double_blocks.\1.img_attn.qkv#1"),
        (r"transformer_blocks\.(\d+)\.attn\.to_v", r"double_blocks.\1.img_attn.qkv#2"),
        (r"transformer_blocks\.(\d+)\.attn\.add_q_proj", r"double_blocks.\1.txt_attn.qkv#0"),
        (r"transformer_blocks\.(\d+)\.attn\.add_k_proj", r"double_blocks.\1.txt_attn.qkv#1"),
        (r"transformer_blocks\.(\d+)\.attn\.add_v_proj", r"double_blocks.\1.txt_attn.qkv#2"),
        (r"transformer_blocks\.(\d+)\.attn\.to_out\.0", r"double_blocks.\1.img_attn.proj"),
        (r"transformer_blocks\.(\d+)\.attn\.to_add_out", r"double_blocks.\1.txt_attn.proj"),
        (r"transformer_blocks\.(\d+)\.ff\.linear_in", r"double_blocks.\1.img_mlp.0"),
        (r"transformer_blocks\.(\d+)\.ff\.linear_out", r"double_blocks.\1.img_mlp.2"),
        (r"transformer_blocks\.(\d+)\.ff_context\.linear_in", r"double_blocks.\1.txt_mlp.0"),
        (r"transformer_blocks\.(\d+)\.ff_context\.linear_out", r"double_blocks.\1.txt_mlp.2"),
        (r"transformer_blocks\.(\d+)\.attn\.norm_q", r"double_blocks.\1.img_attn.norm.query_norm"),
        (r"transformer_blocks\.(\d+)\.attn\.norm_k", r"double_blocks.\1.img_attn.norm.key_norm"),
        (r"transformer_blocks\.(\d+)\.attn\.norm_added_q", r"double_blocks.\1.txt_attn.norm.query_norm"),
        (r"transformer_blocks\.(\d+)\.attn\.norm_added_k", r"double_blocks.\1.txt_attn.norm.key_norm"),
        (r"single_transformer_blocks\.(\d+)\.attn\.to_qkv_mlp_proj", r"single_blocks.\1.linear1"),
        (r"single_transformer_blocks\.(\d+)\.attn\.to_out", r"single_blocks.\1.linear2"),
        (r"single_transformer_blocks\.(\d+)\.attn\.norm_q", r"single_blocks.\1.norm.query_norm"),
        (r"single_transformer_blocks\.(\d+)\.attn\.norm_k", r"single_blocks.\1.norm.key_norm"),
        (r"(double_stream_modulation_(?:img|txt)|single_stream_modulation)\.linear", r"\1.lin"),
        (r"x_embedder", "img_in"),
        (r"context_embedder", "txt_in"),
        (r"time_guidance_embed\.timestep_embedder\.linear_1", "time_in.in_layer"),
        (r"time_guidance_embed\.timestep_embedder\.linear_2", "time_in.out_layer"),
        (r"time_guidance_embed\.guidance_embedder\.linear_1", "guidance_in.in_layer"),
        (r"time_guidance_embed\.guidance_embedder\.linear_2", "guidance_in.out_layer"),
        (r"norm_out\.linear", "final_layer.adaLN_modulation.1#swapped"),
        (r"proj_out", "final_layer.linear"),
    )
)
"""Diffusers module name -> name in FLUX.2's own release; see `lora.targets` for what stands behind `#`."""
