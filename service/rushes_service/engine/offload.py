"""A transformer whose blocks stay in host memory: each is on the device only while it computes.

The blocks lie in pinned host memory, one buffer a block. On the device there are two places, each as large as the
largest block: while a block computes in one, the next is copied to the other by a stream of its own. Streams wait for
each other by events, the host waits for neither. All that is no block (embeddings, the last layer) is small and stays
on the device.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from rushes_service.runtime.devices import CPU
from rushes_service.runtime.pinned import laid_out, pinned_bytes, views

PLACES = 2


class HostedBlock:
    """One block: its tensors, and their home in a buffer of host memory, where LoRAs are merged into them."""

    def __init__(self, module: nn.Module) -> None:
        self.tensors: list[torch.Tensor] = [*module.parameters(), *module.buffers()]
        self.bytes, _ = laid_out(self.tensors)
        self.buffer = pinned_bytes(self.bytes)
        self._homes = views(self.buffer, self.tensors)
        for home, tensor in zip(self._homes, self.tensors, strict=True):
            home.copy_(tensor.data)
        self.go_home()

    def go_home(self) -> None:
        """Let the tensors be those in host memory."""
        for home, tensor in zip(self._homes, self.tensors, strict=True):
            tensor.data = home

    def move_into(self, place: torch.Tensor) -> None:
        """Let the tensors be those in `place`, a copy of `buffer` on the device."""
        for there, tensor in zip(views(place, self._homes), self.tensors, strict=True):
            tensor.data = there


class DevicePlace:
    """Room for one block on the device, and the block that was copied there last."""

    def __init__(self, size: int, device: torch.device) -> None:
        # On the stream that computes: the allocator frees it there, after the last block that used it.
        self.bytes = torch.empty(size, dtype=torch.uint8, device=device)
        self.free = torch.cuda.Event()
        self.free.record()
        self.ready = torch.cuda.Event()
        self.holds: int | None = None

    def begin_copy(self, number: int, block: HostedBlock, stream: torch.cuda.Stream) -> None:
        """Copy a block here, in `stream`, once what used the place has computed."""
        with torch.cuda.stream(stream):
            stream.wait_event(self.free)
            self.bytes[: block.bytes].copy_(block.buffer, non_blocking=True)
            self.ready.record()
        self.holds = number

    def abandon(self) -> None:
        """Forget what is here, when all that was queued is done with it."""
        self.holds = None
        self.free.record()


class BlockOffloader:
    """Brings the blocks of one transformer to `device` and back. Used by one thread at a time."""

    def __init__(self, transformer: nn.Module, device: torch.device) -> None:
        self.device = device
        modules = blocks_of(transformer)
        transformer.to(CPU)
        self._blocks = [HostedBlock(module) for module in modules]
        move_rest(transformer, modules, device)
        self._places: list[DevicePlace] = []
        self._stream: torch.cuda.Stream | None = None
        for number, module in enumerate(modules):
            module.register_forward_pre_hook(lambda _module, _inputs, number=number: self._enter(number))
            module.register_forward_hook(lambda _module, _inputs, _output, number=number: self._leave(number))

    def reset(self) -> None:
        """Bring every block home, also after a step that failed half way; afterwards they may be written."""
        for block in self._blocks:
            block.go_home()
        if self._stream is not None:
            self._stream.synchronize()
        for place in self._places:
            place.abandon()

    def release(self) -> None:
        """Bring every block home, and give the memory on the device back."""
        self.reset()
        self._places = []

    def _enter(self, number: int) -> None:
        """Called before a block computes."""
        if self.device.type != "cuda":
            return
        place = self._brought(number)
        torch.cuda.current_stream(self.device).wait_event(place.ready)
        self._blocks[number].move_into(place.bytes)
        if number + 1 < len(self._blocks):
            self._brought(number + 1)

    def _leave(self, number: int) -> None:
        """Called when a block has computed, as far as the host knows."""
        if self.device.type != "cuda":
            return
        self._blocks[number].go_home()
        self._places[number % PLACES].abandon()

    def _brought(self, number: int) -> DevicePlace:
        """The place to which a block was, or now is, copied."""
        if not self._places:
            size = max(block.bytes for block in self._blocks)
            self._places = [DevicePlace(size, self.device) for _ in range(PLACES)]
        if self._stream is None:
            self._stream = torch.cuda.Stream(self.device)
        place = self._places[number % PLACES]
        if place.holds != number:
            place.begin_copy(number, self._blocks[number], self._stream)
        return place


def blocks_of(transformer: nn.Module) -> list[nn.Module]:
    """The blocks of a transformer, in the order in which they compute: the elements of its own lists."""
    lists = (child for child in transformer.children() if isinstance(child, (nn.ModuleList, nn.Sequential)))
    return [block for each in lists for block in each]


def move_rest(transformer: nn.Module, blocks: Sequence[nn.Module], device: torch.device) -> None:
    """Move all that belongs to no block to `device`."""
    inside = {id(tensor) for block in blocks for tensor in (*block.parameters(), *block.buffers())}
    for module in transformer.modules():
        for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
            if id(tensor) not in inside:
                tensor.data = tensor.data.to(device)
