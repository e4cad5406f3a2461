"""Private and undocumented names of torch in one place. `tests/house/test_compat.py` checks that each exists."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import torch


def copy_all(targets: Sequence[torch.Tensor], sources: Sequence[torch.Tensor]) -> None:
    """Copy each source into its target, in few kernels; copies from pinned memory do not wait."""
    torch._foreach_copy_(list(targets), list(sources), non_blocking=True)


def scaled_product(
    left: torch.Tensor, right: torch.Tensor, left_scales: torch.Tensor, right_scales: torch.Tensor, dtype: torch.dtype
) -> torch.Tensor:
    """Product of matrices in float8, [m, k] and [k, n] by columns, with scales [m, 1] and [1, n]: [m, n] in `dtype`.

    Cards before Hopper have no kernel with a scale for each row: there the scales follow the product.
    """
    if left.device.type != "cuda" or torch.cuda.get_device_capability(left.device) >= (9, 0):
        # On a card rows are scaled in bfloat16 alone.
        made = torch.bfloat16 if left.device.type == "cuda" else dtype
        return torch._scaled_mm(left, right, scale_a=left_scales, scale_b=right_scales, out_dtype=made).to(dtype)
    one = left_scales.new_ones(())
    plain = torch._scaled_mm(left, right, scale_a=one, scale_b=one, out_dtype=torch.bfloat16)
    return (plain * left_scales * right_scales).to(dtype)


def lock_pages(address: int, size: int) -> bool:
    """Page-lock `size` bytes of host memory; False if the driver refuses, or there is none.

    `cudaHostRegister`, as torch.distributed uses it for checkpoints.
    """
    try:
        if int(torch.cuda.cudart().cudaHostRegister(address, size, 0)) == 0:
            return True
    except (RuntimeError, AttributeError):  # this PyTorch has no CUDA runtime
        return False
    # CUDA keeps the refusal as its last error, which the next launch would report as its own.
    with contextlib.suppress(RuntimeError):
        torch.zeros(1, device="cuda")
    return False


def unlock_pages(address: int) -> None:
    """Undo `lock_pages`, once the device has finished the copies that it was asked for."""
    with contextlib.suppress(RuntimeError, AttributeError):
        torch.cuda.synchronize()
        torch.cuda.cudart().cudaHostUnregister(address)
