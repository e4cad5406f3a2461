"""The weights of one base model in host memory, and the way to its device and back.

They are those of the files: LoRAs are merged into the weights on the device alone. So nothing is copied back when the
model leaves the device a second time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain

import torch
from torch import nn

from rushes_service.runtime.compat_accelerate import offloaded_by_accelerate
from rushes_service.runtime.devices import CPU
from rushes_service.runtime.pinned import move_to_pinned


def weights(modules: Sequence[nn.Module]) -> Iterator[torch.Tensor]:
    """Parameters and buffers of `modules`, each once, always in the same order."""
    seen: set[int] = set()
    for tensor in chain.from_iterable(chain(module.parameters(), module.buffers()) for module in modules):
        if id(tensor) not in seen:
            seen.add(id(tensor))
            yield tensor


def bytes_of(modules: Sequence[nn.Module], *, on_device: bool = False) -> int:
    """Bytes of the weights of `modules`: of all, or of those that are not in host memory."""
    return sum(tensor.nbytes for tensor in weights(modules) if not (on_device and tensor.device == CPU))


def can_be_moved(modules: Sequence[nn.Module]) -> bool:
    """False if some weights are not plain tensors (those of a quantising library), or are moved by accelerate."""
    plain = all(type(tensor) in (nn.Parameter, torch.Tensor) and not tensor.is_meta for tensor in weights(modules))
    return plain and not any(offloaded_by_accelerate(part) for module in modules for part in module.modules())


class HostCopy:
    """Where the weights of `modules` are on the device, and what they are in host memory.

    Making one moves them to host memory, a chunk at a time. Those that lie there anyway (of a model on the CPU, of the
    blocks of an offloaded one) stay as they are, and have no copy.
    """

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        self._modules = modules
        self._places = [tensor.device for tensor in weights(modules)]
        self._homes: list[torch.Tensor] = []
        move_to_pinned([tensor for tensor, _ in self._moved()])
        self._homes = [tensor.data for tensor, _ in self._moved()]

    def _moved(self) -> list[tuple[torch.Tensor, torch.device]]:
        """The weights that go to a device, with the device."""
        # Buffers are other objects once a module was moved, so they are looked up each time.
        found = zip(weights(self._modules), self._places, strict=True)
        return [(tensor, place) for tensor, place in found if place != CPU]

    @property
    def bytes(self) -> int:
        """Bytes of host memory that the copies take."""
        return sum(home.nbytes for home in self._homes)

    def has_all_of(self, module: nn.Module) -> bool:
        """True if all weights of one of the modules have a copy, so that `leave` undoes whatever was done to them."""
        copied = {id(tensor) for tensor, _ in self._moved()}
        return all(id(tensor) in copied for tensor in weights([module]))

    def leave(self) -> None:
        """Let the weights be those in host memory again, whatever has become of those on the device.

        Raises:
            ValueError: the model has other weights than it had.
        """
        moved = self._moved()
        for (tensor, _), home in zip(moved, self._homes, strict=True):
            if (tensor.shape, tensor.dtype) != (home.shape, home.dtype):
                raise ValueError(f"a weight of {list(home.shape)} has become {list(tensor.shape)}")
        for (tensor, _), home in zip(moved, self._homes, strict=True):
            tensor.data = home

    def enter(self) -> None:
        """Copy the weights to the device; raises the device's errors, and all are then in host memory."""
        moved = self._moved()
        try:
            for (tensor, place), home in zip(moved, self._homes, strict=True):
                tensor.data = home.to(place, non_blocking=True)
            for place in {place for _, place in moved if place.type == "cuda"}:
                torch.cuda.current_stream(place).synchronize()
        except BaseException:
            self.leave()
            raise
