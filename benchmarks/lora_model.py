"""What the LoRA benchmarks share: a Wan transformer of a good size with random weights, and LoRA files for it."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import WanTransformer3DModel
from diffusers.utils import logging
from safetensors.torch import save_file

from rushes_service.lora.targets import NameTable
from rushes_service.models.wan.names import wan_names

HEADS, HEAD_DIM, FFN, LAYERS = 12, 128, 8960, 6
"""Blocks of Wan2.1 1.3B, fewer of them: 280 million parameters."""

TEXT_DIM = 64
RANK = 32
LINEARS = ("self_attn.q", "self_attn.k", "self_attn.v", "self_attn.o")
CROSS = ("cross_attn.q", "cross_attn.k", "cross_attn.v", "cross_attn.o")
"""With the two of the feed-forward part: what musubi-tuner trains."""


def build(dtype: torch.dtype, layers: int = LAYERS) -> WanTransformer3DModel:
    """The transformer, on the CPU, with random weights."""
    torch.manual_seed(0)
    config = {
        "num_attention_heads": HEADS,
        "attention_head_dim": HEAD_DIM,
        "ffn_dim": FFN,
        "num_layers": layers,
        "text_dim": TEXT_DIM,
        "rope_max_seq_len": 1024,
    }
    # Cast as a whole, which diffusers warns of: here only sizes matter.
    logging.set_verbosity_error()
    return WanTransformer3DModel(**config).to(dtype).eval().requires_grad_(False)


def write_lora(model: WanTransformer3DModel, path: Path, dtype: torch.dtype, *, seed: int, style: str) -> Path:
    """A LoRA on every linear of every block, as musubi-tuner ("musubi") or diffusers ("diffusers") writes it."""
    generator = torch.Generator().manual_seed(seed)
    names = wan_names(model)
    tensors: dict[str, torch.Tensor] = {}
    for name in block_names(model, names):
        (target,) = names.dotted[name]
        rows, columns = model.get_submodule(target.module).weight.shape
        down = (torch.randn(RANK, columns, generator=generator) * 0.02).to(dtype)
        up = (torch.randn(rows, RANK, generator=generator) * 0.02).to(dtype)
        if style == "musubi":
            flat = f"lora_unet_{name.replace('.', '_')}"
            tensors |= {f"{flat}.lora_down.weight": down, f"{flat}.lora_up.weight": up}
            tensors[f"{flat}.alpha"] = torch.tensor(float(RANK))
        else:
            own = f"transformer.{target.module}"
            tensors |= {f"{own}.lora_A.weight": down, f"{own}.lora_B.weight": up}
    save_file(tensors, path)
    return path


def block_names(model: WanTransformer3DModel, names: NameTable) -> list[str]:
    """Original names of the linears of all blocks."""
    count = len(model.blocks)
    ends = (*LINEARS, *CROSS, "ffn.0", "ffn.2")
    return [name for index in range(count) for end in ends if (name := f"blocks.{index}.{end}") in names.dotted]
