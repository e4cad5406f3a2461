"""Private names of diffusers that this package uses, in one place. `tests/house/test_compat.py` checks them."""

from __future__ import annotations

from typing import Any

from diffusers.hooks import HookRegistry
from torch import nn

GROUP_OFFLOADING = "group_offloading"
"""Name under which diffusers registers the hook of group offloading."""


def offload_hook(module: nn.Module) -> Any:
    """The hook that moves a module to its device and back, or None."""
    registry: HookRegistry | None = getattr(module, "_diffusers_hook", None)
    return registry and registry.get_hook(GROUP_OFFLOADING)


def offload_group(module: nn.Module) -> None:
    """Move the weights of a module's offloading group back to host memory, if it belongs to one."""
    if (hook := offload_hook(module)) is not None:
        hook.group.offload_()


def offloaded_by_accelerate(module: nn.Module) -> bool:
    """True if accelerate keeps the weights of a module elsewhere and brings them for each call."""
    return hasattr(module, "_hf_hook")
