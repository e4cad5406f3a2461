"""What a receipt says about the machine that made a sample."""

from __future__ import annotations

import functools
import platform
from importlib.metadata import version

import torch

from rushes_service.runtime.per_process import called

PACKAGES = ("rushes", "torch", "diffusers", "transformers")


@functools.cache
def versions() -> dict[str, str]:
    """Versions of Python and of what computes."""
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


def device_name(device: torch.device) -> str:
    """The device, with the GPU's name."""
    return f"{called(device)} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)
