"""Private names of accelerate that this package uses, in one place. `tests/house/test_compat.py` checks them."""

from __future__ import annotations

from torch import nn


def offloaded_by_accelerate(module: nn.Module) -> bool:
    """True if accelerate keeps the weights of a module elsewhere and brings them for each call."""
    return hasattr(module, "_hf_hook")
