"""Names that tools give to modules beside those of the model's release and of diffusers.

ComfyUI builds HunyuanVideo with FLUX's inner names. Tools that fuse projections (diffusers' `fuse_qkv_projections`,
speed-up kernels) name the fused module themselves.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

COMFYUI: tuple[tuple[str, str], ...] = (
    (r"txt_in\.t_embedder\.mlp\.0$", "txt_in.t_embedder.in_layer"),
    (r"txt_in\.t_embedder\.mlp\.2$", "txt_in.t_embedder.out_layer"),
    (r"txt_in\.c_embedder\.linear_1$", "txt_in.c_embedder.in_layer"),
    (r"txt_in\.c_embedder\.linear_2$", "txt_in.c_embedder.out_layer"),
    (r"_in\.mlp\.0$", "_in.in_layer"),
    (r"_in\.mlp\.2$", "_in.out_layer"),
    (r"_mod\.linear$", "_mod.lin"),
    (r"\.modulation\.linear$", ".modulation.lin"),
    (r"_attn_qkv$", "_attn.qkv"),
    (r"_attn_proj$", "_attn.proj"),
    (r"mlp\.fc1$", "mlp.0"),
    (r"mlp\.fc2$", "mlp.2"),
    (r"_attn_q_norm$", "_attn.norm.query_norm"),
    (r"_attn_k_norm$", "_attn.norm.key_norm"),
    (r"\.q_norm$", ".norm.query_norm"),
    (r"\.k_norm$", ".norm.key_norm"),
)
"""End of a name in the model's release, and what ComfyUI calls it (comfy/supported_models.py, HunyuanVideo)."""

COMFYUI_ENDS = tuple((re.compile(end), called) for end, called in COMFYUI)

FUSED: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    (("to_q", "to_k", "to_v"), ("to_qkv", "qkv", "qkv_proj")),
    (("to_k", "to_v"), ("to_kv", "kv")),
    (("add_q_proj", "add_k_proj", "add_v_proj"), ("to_added_qkv", "add_qkv_proj", "added_qkv")),
    (("add_k_proj", "add_v_proj"), ("to_added_kv", "add_kv_proj", "added_kv")),
    (("q", "k", "v"), ("qkv", "to_qkv")),
    (("k", "v"), ("kv", "to_kv")),
    (("k_img", "v_img"), ("kv_img",)),
    (("q_proj", "k_proj", "v_proj"), ("qkv_proj",)),
)
"""Modules beside each other, and what they are called where they are one, its rows being theirs one after another."""


def comfyui_name(original: str) -> str | None:
    """What ComfyUI calls a module of HunyuanVideo; None where it keeps the name."""
    for end, called in COMFYUI_ENDS:
        if end.search(original):
            return end.sub(called, original)
    return None


def fused_names(names: Iterable[str]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Names of fused modules, and the modules whose rows are theirs, in their order."""
    known = set(names)
    for parent in dict.fromkeys(name.rpartition(".")[0] for name in names):
        for leaves, called in FUSED:
            parts = tuple(f"{parent}.{leaf}" for leaf in leaves)
            if known.issuperset(parts):
                yield from ((f"{parent}.{name}", parts) for name in called if f"{parent}.{name}" not in known)
