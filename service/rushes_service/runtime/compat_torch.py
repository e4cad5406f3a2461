"""Private names of torch that this package uses, in one place. `tests/house/test_compat.py` checks that each exists."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def copy_all(targets: Sequence[torch.Tensor], sources: Sequence[torch.Tensor]) -> None:
    """Copy each source into its target, in few kernels; copies from pinned memory do not wait."""
    torch._foreach_copy_(list(targets), list(sources), non_blocking=True)
