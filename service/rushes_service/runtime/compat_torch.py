"""Private and undocumented names of torch in one place. `tests/house/test_compat.py` checks that each exists."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import torch


def copy_all(targets: Sequence[torch.Tensor], sources: Sequence[torch.Tensor]) -> None:
    """Copy each source into its target, in few kernels; copies from pinned memory do not wait."""
    torch._foreach_copy_(list(targets), list(sources), non_blocking=True)


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
