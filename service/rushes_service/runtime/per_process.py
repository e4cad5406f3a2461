"""What an entry point sets once for its process: PyTorch's allocator before torch is imported, the names of devices."""

from __future__ import annotations

from collections.abc import MutableMapping

NAMES = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
"""Environment variables: the name since PyTorch 2.9, and the one before."""

GROWING = "expandable_segments:True"
"""Segments that grow. Models, encoders and clips of every size come and go in a worker; fixed segments then leave holes
that no later block fits."""


def use_growing_segments(environment: MutableMapping[str, str]) -> None:
    """Let the GPU's memory be kept in segments that grow, unless somebody has set the allocator otherwise."""
    if not any(name in environment for name in NAMES):
        environment.update(dict.fromkeys(NAMES, GROWING))


_names: dict[str, str] = {}


def call(device: str, name: str) -> None:
    """Let `device`, as this process counts, be called `name` in all that people read.

    A worker that is shown one GPU alone calls it by its place in the machine.
    """
    _names[device] = name


def called(device: object) -> str:
    """The name of a device: what it was given, or its own."""
    return _names.get(str(device), str(device))
