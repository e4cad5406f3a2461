"""Encoders that are loaded: on the device while they are lent, in host memory afterwards if there is room.

An encoder of text is often larger than the model it serves. Read from disk it takes seconds to minutes, from pinned
host memory one copy. It never changes, so nothing is copied back: on the device it has copies of its weights, and what
it has in host memory stays there.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import torch
from torch import nn

from rushes_service.runtime.device_memory import free_memory
from rushes_service.runtime.host_memory import HostMemory, host_memory
from rushes_service.runtime.pinned import move_to_pinned

logger = logging.getLogger("rushes.worker")

Key = tuple[Hashable, ...]


@dataclass
class Placed:
    """A module, and its weights in host memory; empty if they are not kept there."""

    module: nn.Module
    host: list[torch.Tensor] = field(default_factory=list)

    def enter(self, device: torch.device) -> None:
        """Bring the weights to `device`."""
        for tensor, kept in zip(weights(self.module), self.host, strict=True):
            tensor.data = kept.to(device, non_blocking=True)

    def leave(self) -> None:
        """Let go of the copies on the device."""
        for tensor, kept in zip(weights(self.module), self.host, strict=True):
            tensor.data = kept


@dataclass
class Held:
    """What one encoder loaded. `device` is None while it is not lent, or has never been whole."""

    loaded: Any
    modules: list[Placed]
    device: torch.device | None

    @property
    def kept(self) -> bool:
        """True if all of its weights are in host memory."""
        return all(placed.host for placed in self.modules)

    @property
    def bytes(self) -> int:
        """Of host memory."""
        return sum(kept.nbytes for placed in self.modules for kept in placed.host)


class EncoderStore:
    """The encoders of one engine. Not thread-safe: whoever encodes holds the engine's lock.

    Args:
        budget: bytes of host memory that encoders may be kept in. None is as much as leaves a quarter of the host's
            memory available; 0 keeps none.
        measure: what the host has.
    """

    def __init__(self, budget: int | None = 0, measure: Callable[[], HostMemory] = host_memory) -> None:
        self.loads = 0
        """How often encoders were read from their files."""
        self._budget = budget
        self._measure = measure
        self._held: dict[Key, Held] = {}
        self._loading: list[Placed] = []
        self._lent = 0

    @property
    def in_use(self) -> bool:
        """True if encoders are on the device, ready for the next input."""
        return any(held.device is not None for held in self._held.values())

    @property
    def host_bytes(self) -> int:
        """Bytes of host memory that encoders are kept in."""
        return sum(held.bytes for held in self._held.values())

    @contextlib.contextmanager
    def session(self) -> Iterator[None]:
        """Inside, encoders that are released stay on the device."""
        self._lent += 1
        try:
            yield
        finally:
            self.release()

    def acquire(self, key: Key, device: torch.device, load: Callable[[], Any]) -> Any:
        """What `load` made of the encoders called `key`, with weights on `device`, until it is released.

        Raises what `load` raises.
        """
        held = self._held.pop(key, None)
        if held is not None:
            self._held[key] = held  # the one used last is the last
            if held.device != device:
                self._move(held, device)
        else:
            held = self._held[key] = self._load(device, load)
        self._lent += 1
        return held.loaded

    def _move(self, held: Held, device: torch.device) -> None:
        """Bring kept weights to `device`."""
        try:
            for placed in held.modules:
                placed.enter(device)
        except BaseException:
            for placed in held.modules:  # half of it may be there
                placed.leave()
            raise
        held.device = device

    def _load(self, device: torch.device, load: Callable[[], Any]) -> Held:
        self.relieve()
        self._loading = []
        self.loads += 1
        try:
            return Held(load(), self._loading, device)
        finally:
            self._loading = []

    def placed(self, module: nn.Module, device: torch.device, *, keep: bool = True) -> Any:
        """`module`, just loaded to the CPU, on `device`; called by whatever `acquire` was given.

        Args:
            keep: False for one whose weights will be changed.
        """
        placed = Placed(module.requires_grad_(False))
        self._loading.append(placed)
        tensors = list(weights(module))
        if tensors and keep and self._room_for(sum(tensor.nbytes for tensor in tensors)):
            if device.type != "cpu":
                move_to_pinned(tensors)
            placed.host = [tensor.data for tensor in tensors]
            placed.enter(device)
        else:
            module.to(device)
        return module

    def release(self) -> None:
        """End one `acquire`, or a session; after the last, encoders leave the device, and memory if none is left."""
        self._lent -= 1
        if self._lent:
            return
        devices = {held.device for held in self._held.values() if held.device is not None}
        gone = [key for key, held in self._held.items() if not held.kept]
        for key in gone:
            del self._held[key]
        for held in self._held.values():
            for placed in held.modules:
                placed.leave()
            held.device = None
        if gone:
            for device in devices:
                free_memory(device)
        elif any(device.type == "cuda" for device in devices):
            torch.cuda.empty_cache()

    def _room_for(self, size: int) -> bool:
        """True if `size` bytes that are in host memory already may stay there; others make room for them."""
        if self._budget is None:
            return self._measure().spares()
        while self.host_bytes + self._loading_bytes + size > self._budget:
            if not self._drop_oldest():
                return False
        return True

    @property
    def _loading_bytes(self) -> int:
        return sum(kept.nbytes for placed in self._loading for kept in placed.host)

    def relieve(self) -> None:
        """Give back the encoders used longest ago while the host's memory is short."""
        while self._held and self._measure().short and self._drop_oldest():
            pass

    def give_back(self) -> None:
        """Give back all that is not lent: memory ran out."""
        while self._drop_oldest():
            pass

    def _drop_oldest(self) -> bool:
        """Give back the encoders that were used longest ago; False if all are lent."""
        for key, held in self._held.items():
            if held.device is None:
                logger.info("encoders of %.1f GiB are no longer kept in host memory", held.bytes / (1 << 30))
                del self._held[key], held
                free_memory(torch.device("cpu"))
                return True
        return False


def weights(module: nn.Module) -> Iterator[torch.Tensor]:
    """Parameters and buffers of a module, each once."""
    return chain(module.parameters(), module.buffers())
