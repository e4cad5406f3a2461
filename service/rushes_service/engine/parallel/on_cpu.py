"""What a group of processes on a CPU lacks beside GPUs with NCCL: with it, the same code is computed there."""

from __future__ import annotations

import functools

import torch
import torch.distributed as dist
from diffusers.hooks import context_parallel
from torch.nn.functional import pad


@functools.cache
def make_up() -> torch.library.Library:
    """Make up for all of it, in this process."""
    if torch.accelerator.device_count() == 0:
        # diffusers numbers a process's device modulo the number of accelerators.
        torch.accelerator.device_count = lambda: 1
    context_parallel._all_gather_anything = gather
    library = torch.library.Library("aten", "IMPL")
    library.impl("_scaled_dot_product_flash_attention", flash, "CPU")
    return library  # it would be undone with its last reference


def gather(tensor: torch.Tensor, dim: int, group: dist.ProcessGroup) -> torch.Tensor:
    """The parts of all processes, one after the other along `dim`. Gloo takes parts of one size alone."""
    sizes = context_parallel.gather_size_by_comm(tensor.shape[dim], group)
    missing = max(sizes) - tensor.shape[dim]
    padded = pad(tensor, (0, 0) * (tensor.ndim - 1 - dim) + (0, missing)).contiguous()
    parts = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(parts, padded, group=group)
    return torch.cat([part.narrow(dim, 0, size) for part, size in zip(parts, sizes, strict=True)], dim=dim)


def flash(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    return_debug_mask: bool = False,
    *,
    scale: float | None = None,
) -> tuple[torch.Tensor | int, ...]:
    """PyTorch has this kernel for CPUs by another name. What else a GPU's returns is for gradients alone."""
    del return_debug_mask
    made, logarithms = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query, key, value, dropout_p, is_causal, scale=scale
    )
    empty = query.new_empty(0)
    return made, logarithms, empty, empty, query.shape[-2], key.shape[-2], empty, empty, empty
