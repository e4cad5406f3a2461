"""Waiting for room on a device that is shared with others."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Protocol

import torch

from rushes_service.runtime.per_process import called

logger = logging.getLogger("rushes.worker")

GIB = 1 << 30
POLL_S = 1.0
"""Others free memory in jumps, seconds or minutes apart."""


class ProgressCallback(Protocol):
    """Hears that a sample waits, and may raise to end it."""

    def stage(self, name: str, total: int = 0) -> None:
        """A stage begins."""


def available_bytes(device: torch.device) -> int:
    """Bytes that this process could use on `device`: what is free, and what it holds already."""
    if device.type != "cuda":
        return 1 << 62
    return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)


def unused_bytes(device: torch.device) -> int:
    """Bytes of `device` that nobody holds: free memory, and blocks that PyTorch keeps for its next allocations."""
    if device.type != "cuda":
        return 1 << 62
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + kept


class MemoryGate:
    """Memory that must be within this process's reach before a sample begins.

    Args:
        minimum_gib: 0 waits for nothing.
        measure: bytes within reach of a device.
        poll_s: seconds between two looks.
    """

    def __init__(
        self,
        minimum_gib: float,
        device: torch.device,
        measure: Callable[[torch.device], int] = available_bytes,
        poll_s: float = POLL_S,
    ) -> None:
        self._minimum = int(minimum_gib * GIB)
        self._device = device
        self._measure = measure
        self._poll_s = poll_s

    def wait(self, watch: ProgressCallback) -> None:
        """Return as soon as there is room; raises what `watch` raises."""
        if self._minimum <= 0:
            return
        told = False
        while (there := self._measure(self._device)) < self._minimum:
            if not told:
                logger.info(
                    "waiting for %.1f GiB on %s, %.1f are there", self._minimum / GIB, called(self._device), there / GIB
                )
                told = True
            watch.stage("wait")
            threading.Event().wait(self._poll_s)
