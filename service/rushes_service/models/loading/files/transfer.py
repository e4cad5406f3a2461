"""Numbers from a file into a tensor, in chunks: host memory holds no more of them at a time than that.

Files are read, not mapped: weights that lie in a mapping end the process (SIGBUS) when somebody rewrites the file, and
count twice beside converted ones. To a GPU they go through two pinned buffers: one is read into while the other is
copied.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

import torch

from rushes.errors import ModelError
from rushes_service.runtime.pinned import pinned_bytes

CHUNK = 16 << 20
"""Bytes. Large enough that a disk and a bus are at their best."""

BUFFERS = 2


def chunk_for(largest: int, threads: int) -> int:
    """Bytes of a chunk with which the buffers of all threads together are no larger than the largest tensor."""
    return min(CHUNK, max(largest // (threads * BUFFERS) // 8 * 8, 8))


class ByteSource(Protocol):
    """The bytes of one tensor."""

    def read_into(self, buffer: torch.Tensor, start: int) -> None:
        """Fill `buffer`, uint8 on the CPU, with the bytes from `start` on; raises `ModelError`."""


class FileBytes:
    """Bytes of an open file, from `first` on."""

    def __init__(self, file: int, first: int, path: Path) -> None:
        self._file = file
        self._first = first
        self._path = path

    def read_into(self, buffer: torch.Tensor, start: int) -> None:
        """Fill `buffer`; raises `ModelError` if the file is shorter than its header said, or cannot be read."""
        view, done = memoryview(buffer.numpy()), 0
        while done < len(view):
            try:
                count = os.preadv(self._file, [view[done:]], self._first + start + done)
            except OSError as error:
                raise ModelError(f"{self._path} cannot be read: {error}") from error
            if count == 0:
                raise ModelError(f"{self._path} became shorter while it was read; copy or download it again")
            done += count


class TensorBytes:
    """Bytes of a tensor on the CPU, which may be a mapping of a file."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self._bytes = tensor.contiguous().view(-1).view(torch.uint8)

    def read_into(self, buffer: torch.Tensor, start: int) -> None:
        """Fill `buffer`."""
        buffer.copy_(self._bytes[start : start + buffer.numel()])


class Transfer:
    """One thread's way to `device`.

    Args:
        chunk: bytes that are copied at a time, a multiple of 8.
    """

    def __init__(self, device: torch.device, chunk: int = CHUNK) -> None:
        self.device = device
        self._size = chunk
        self._buffers: list[torch.Tensor] = []
        self._copied: list[torch.cuda.Event] = []
        self._next = 0

    def copy(
        self, target: torch.Tensor, source: ByteSource, start: int, stored: torch.dtype, rounded: torch.dtype
    ) -> None:
        """Fill `target`, contiguous [n] on the device.

        Args:
            start: where its numbers begin in `source`, in bytes.
            stored: their precision there.
            rounded: precision that they are brought to before that of `target`.
        """
        if not target.numel():
            return
        plain = stored is target.dtype and rounded is stored
        if plain and self.device.type == "cpu":
            source.read_into(target.view(torch.uint8), start)
            return
        step = self._size // stored.itemsize
        for first in range(0, target.numel(), step):
            part = target[first : first + step]
            buffer = self._free_buffer()[: part.numel() * stored.itemsize]
            source.read_into(buffer, start + first * stored.itemsize)
            numbers = buffer.view(stored)
            if not plain and self.device.type != "cpu":
                numbers = numbers.to(self.device, non_blocking=True)  # converted there
            if rounded is not part.dtype:
                numbers = numbers.to(rounded)
            part.copy_(numbers, non_blocking=True)
            self._in_use()

    def _free_buffer(self) -> torch.Tensor:
        """A buffer of the host that no copy reads any more."""
        if not self._buffers:
            count = BUFFERS if self.device.type == "cuda" else 1
            self._buffers = [pinned_bytes(self._size) for _ in range(count)]
            if self.device.type == "cuda":
                self._copied = [torch.cuda.Event() for _ in range(count)]
            return self._buffers[0]
        if self._copied:
            self._copied[self._next].synchronize()
        return self._buffers[self._next]

    def _in_use(self) -> None:
        """Say that copies out of the latest buffer have been asked for."""
        if self._copied:
            self._copied[self._next].record()
        self._next = (self._next + 1) % len(self._buffers)
