"""How HunyuanVideo 1.5's own release names the modules of its transformer, and ComfyUI's copy of it."""

from __future__ import annotations

import re

from torch import nn

from rushes_service.lora.targets import NameTable, name_table, renamed

BLOCKS = (
    (r"BLOCK\.attn\.to_([qkv])", r"ORIGINAL.img_attn_\2"),
    (r"BLOCK\.attn\.add_([qkv])_proj", r"ORIGINAL.txt_attn_\2"),
)
"""Attention in the release."""

FUSED = (
    (r"BLOCK\.attn\.to_q", r"ORIGINAL.img_attn_qkv#0"),
    (r"BLOCK\.attn\.to_k", r"ORIGINAL.img_attn_qkv#1"),
    (r"BLOCK\.attn\.to_v", r"ORIGINAL.img_attn_qkv#2"),
    (r"BLOCK\.attn\.add_q_proj", r"ORIGINAL.txt_attn_qkv#0"),
    (r"BLOCK\.attn\.add_k_proj", r"ORIGINAL.txt_attn_qkv#1"),
    (r"BLOCK\.attn\.add_v_proj", r"ORIGINAL.txt_attn_qkv#2"),
)
"""The same in ComfyUI's files."""

OTHERS = (
    (r"BLOCK\.attn\.to_out\.0", r"ORIGINAL.img_attn_proj"),
    (r"BLOCK\.attn\.to_add_out", r"ORIGINAL.txt_attn_proj"),
    (r"BLOCK\.attn\.norm_([qk])", r"ORIGINAL.img_attn_\2_norm"),
    (r"BLOCK\.attn\.norm_added_([qk])", r"ORIGINAL.txt_attn_\2_norm"),
    (r"BLOCK\.ff\.net\.0\.proj", r"ORIGINAL.img_mlp.fc1"),
    (r"BLOCK\.ff\.net\.2", r"ORIGINAL.img_mlp.fc2"),
    (r"BLOCK\.ff_context\.net\.0\.proj", r"ORIGINAL.txt_mlp.fc1"),
    (r"BLOCK\.ff_context\.net\.2", r"ORIGINAL.txt_mlp.fc2"),
    (r"BLOCK\.norm1\.linear", r"ORIGINAL.img_mod.linear"),
    (r"BLOCK\.norm1_context\.linear", r"ORIGINAL.txt_mod.linear"),
    (r"REFINER\.attn\.to_q", r"REFINED.self_attn_qkv#0"),
    (r"REFINER\.attn\.to_k", r"REFINED.self_attn_qkv#1"),
    (r"REFINER\.attn\.to_v", r"REFINED.self_attn_qkv#2"),
    (r"REFINER\.attn\.to_out\.0", r"REFINED.self_attn_proj"),
    (r"REFINER\.ff\.net\.0\.proj", r"REFINED.mlp.fc1"),
    (r"REFINER\.ff\.net\.2", r"REFINED.mlp.fc2"),
    (r"REFINER\.norm([12])", r"REFINED.norm\2"),
    (r"REFINER\.norm_out\.linear", r"REFINED.adaLN_modulation.1"),
    (r"context_embedder\.proj_in", "txt_in.input_embedder"),
    (r"context_embedder\.time_text_embed\.timestep_embedder\.linear_1", "txt_in.t_embedder.mlp.0"),
    (r"context_embedder\.time_text_embed\.timestep_embedder\.linear_2", "txt_in.t_embedder.mlp.2"),
    (r"context_embedder\.time_text_embed\.text_embedder\.linear_([12])", r"txt_in.c_embedder.linear_\1"),
    (r"context_embedder_2\.norm", "byt5_in.layernorm"),
    (r"context_embedder_2\.linear_([123])", r"byt5_in.fc\1"),
    (r"image_embedder\.norm_in", "vision_in.proj.0"),
    (r"image_embedder\.linear_1", "vision_in.proj.1"),
    (r"image_embedder\.linear_2", "vision_in.proj.3"),
    (r"image_embedder\.norm_out", "vision_in.proj.4"),
    (r"cond_type_embed", "cond_type_embedding"),
    (r"x_embedder\.proj", "img_in.proj"),
    (r"time_embed\.timestep_embedder\.linear_1", "time_in.mlp.0"),
    (r"time_embed\.timestep_embedder\.linear_2", "time_in.mlp.2"),
    (r"norm_out\.linear", "final_layer.adaLN_modulation.1#swapped"),  # diffusers has scale before shift
    (r"proj_out", "final_layer.linear"),
)


def compiled(rules: tuple[tuple[str, str], ...]) -> tuple[tuple[re.Pattern[str], str], ...]:
    """Rules with the names of blocks written out."""
    written = {
        "BLOCK": r"transformer_blocks\.(\d+)",
        "REFINER": r"context_embedder\.token_refiner\.refiner_blocks\.(\d+)",
        "ORIGINAL": r"double_blocks.\1",
        "REFINED": r"txt_in.individual_token_refiner.blocks.\1",
    }

    def spelled(text: str) -> str:
        for short, name in written.items():
            text = text.replace(short, name)
        return text

    return tuple((re.compile(spelled(pattern)), spelled(name)) for pattern, name in rules)


ORIGINAL_NAMES = compiled((*BLOCKS, *OTHERS))
"""Diffusers module name -> original name; `#` numbers the parts of a fused module (see `lora.targets`)."""

COMFYUI_NAMES = compiled((*FUSED, *OTHERS))
"""The same for ComfyUI's files, whose attention is fused."""


def hunyuan15_names(transformer: nn.Module) -> NameTable:
    """What names in LoRA files mean: those of the release, of ComfyUI's fused attention, and diffusers'."""
    comfyui, own = (
        name_table(transformer, lambda name, rules=rules: renamed(name, rules))
        for rules in (COMFYUI_NAMES, ORIGINAL_NAMES)
    )
    return NameTable(
        {**comfyui.dotted, **own.dotted},
        {**comfyui.flat, **own.flat},
        own.parameters,
        aliases={**comfyui.aliases, **own.aliases},
    )
