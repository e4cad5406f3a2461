"""How HunyuanVideo's own release names the modules of its transformer, which SkyReels V1 shares."""

from __future__ import annotations

import re

RULES = (
    (r"transformer_blocks\.(\d+)\.attn\.to_q", r"double_blocks.\1.img_attn_qkv#0"),
    (r"transformer_blocks\.(\d+)\.attn\.to_k", r"double_blocks.\1.img_attn_qkv#1"),
    (r"transformer_blocks\.(\d+)\.attn\.to_v", r"double_blocks.\1.img_attn_qkv#2"),
    (r"transformer_blocks\.(\d+)\.attn\.to_out\.0", r"double_blocks.\1.img_attn_proj"),
    (r"transformer_blocks\.(\d+)\.attn\.add_q_proj", r"double_blocks.\1.txt_attn_qkv#0"),
    (r"transformer_blocks\.(\d+)\.attn\.add_k_proj", r"double_blocks.\1.txt_attn_qkv#1"),
    (r"transformer_blocks\.(\d+)\.attn\.add_v_proj", r"double_blocks.\1.txt_attn_qkv#2"),
    (r"transformer_blocks\.(\d+)\.attn\.to_add_out", r"double_blocks.\1.txt_attn_proj"),
    (r"transformer_blocks\.(\d+)\.attn\.norm_([qk])", r"double_blocks.\1.img_attn_\2_norm"),
    (r"transformer_blocks\.(\d+)\.attn\.norm_added_([qk])", r"double_blocks.\1.txt_attn_\2_norm"),
    (r"transformer_blocks\.(\d+)\.ff\.net\.0\.proj", r"double_blocks.\1.img_mlp.fc1"),
    (r"transformer_blocks\.(\d+)\.ff\.net\.2", r"double_blocks.\1.img_mlp.fc2"),
    (r"transformer_blocks\.(\d+)\.ff_context\.net\.0\.proj", r"double_blocks.\1.txt_mlp.fc1"),
    (r"transformer_blocks\.(\d+)\.ff_context\.net\.2", r"double_blocks.\1.txt_mlp.fc2"),
    (r"transformer_blocks\.(\d+)\.norm1\.linear", r"double_blocks.\1.img_mod.linear"),
    (r"transformer_blocks\.(\d+)\.norm1_context\.linear", r"double_blocks.\1.txt_mod.linear"),
    (r"single_transformer_blocks\.(\d+)\.attn\.to_q", r"single_blocks.\1.linear1#0"),
    (r"single_transformer_blocks\.(\d+)\.attn\.to_k", r"single_blocks.\1.linear1#1"),
    (r"single_transformer_blocks\.(\d+)\.attn\.to_v", r"single_blocks.\1.linear1#2"),
    (r"single_transformer_blocks\.(\d+)\.proj_mlp", r"single_blocks.\1.linear1#3"),
    (r"single_transformer_blocks\.(\d+)\.proj_out", r"single_blocks.\1.linear2"),
    (r"single_transformer_blocks\.(\d+)\.attn\.norm_([qk])", r"single_blocks.\1.\2_norm"),
    (r"single_transformer_blocks\.(\d+)\.norm\.linear", r"single_blocks.\1.modulation.linear"),
    (r"REFINER\.attn\.to_q", r"ORIGINAL.self_attn_qkv#0"),
    (r"REFINER\.attn\.to_k", r"ORIGINAL.self_attn_qkv#1"),
    (r"REFINER\.attn\.to_v", r"ORIGINAL.self_attn_qkv#2"),
    (r"REFINER\.attn\.to_out\.0", r"ORIGINAL.self_attn_proj"),
    (r"REFINER\.ff\.net\.0\.proj", r"ORIGINAL.mlp.fc1"),
    (r"REFINER\.ff\.net\.2", r"ORIGINAL.mlp.fc2"),
    (r"REFINER\.norm([12])", r"ORIGINAL.norm\2"),
    (r"REFINER\.norm_out\.linear", r"ORIGINAL.adaLN_modulation.1"),
    (r"context_embedder\.proj_in", "txt_in.input_embedder"),
    (r"context_embedder\.time_text_embed\.timestep_embedder\.linear_1", "txt_in.t_embedder.mlp.0"),
    (r"context_embedder\.time_text_embed\.timestep_embedder\.linear_2", "txt_in.t_embedder.mlp.2"),
    (r"context_embedder\.time_text_embed\.text_embedder\.linear_([12])", r"txt_in.c_embedder.linear_\1"),
    (r"x_embedder\.proj", "img_in.proj"),
    (r"time_text_embed\.timestep_embedder\.linear_1", "time_in.mlp.0"),
    (r"time_text_embed\.timestep_embedder\.linear_2", "time_in.mlp.2"),
    (r"time_text_embed\.guidance_embedder\.linear_1", "guidance_in.mlp.0"),
    (r"time_text_embed\.guidance_embedder\.linear_2", "guidance_in.mlp.2"),
    (r"time_text_embed\.text_embedder\.linear_1", "vector_in.in_layer"),
    (r"time_text_embed\.text_embedder\.linear_2", "vector_in.out_layer"),
    (r"norm_out\.linear", "final_layer.adaLN_modulation.1#swapped"),  # diffusers has scale before shift
    (r"proj_out", "final_layer.linear"),
)

ORIGINAL_NAMES = tuple(
    (
        re.compile(pattern.replace("REFINER", r"context_embedder\.token_refiner\.refiner_blocks\.(\d+)")),
        name.replace("ORIGINAL", r"txt_in.individual_token_refiner.blocks.\1"),
    )
    for pattern, name in RULES
)
"""Diffusers module name -> original name; `#` numbers the parts of a fused module (see `lora.targets`)."""
