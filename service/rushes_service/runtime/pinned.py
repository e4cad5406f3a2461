"""Page-locked (pinned) host memory, from and to which a GPU copies without waiting.

PyTorch's own allocator of it rounds each request up to a power of two and never gives it back: 26 GiB of weights take
40. So large buffers are made of ordinary memory and page-locked as they are; that is exact, and undone when the buffer
goes. Where memory cannot be locked (little `memlock` in a container, WSL) ordinary memory serves, more slowly.
"""

from __future__ import annotations

import logging
import math
import weakref
from collections.abc import Sequence

import torch

from rushes_service.runtime.compat_torch import lock_pages, unlock_pages

logger = logging.getLogger("rushes.worker")

LARGE = 64 << 20
"""Bytes from which a buffer is locked by itself. Smaller ones come from PyTorch's allocator, which reuses them."""

CHUNK_BYTES = 256 << 20
"""Moved to pinned memory at a time: so much is in memory twice for a moment."""

PAGE = 4096
ALIGNMENT = 256
"""Of each tensor in a buffer, in bytes: what kernels like best, and a multiple of every precision."""


def pinned_bytes(size: int) -> torch.Tensor:
    """A buffer of `size` bytes, uint8 on the CPU; pinned if a GPU is in use and its driver allows it."""
    if not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return torch.empty(size, dtype=torch.uint8)
    if size >= LARGE and (buffer := locked_bytes(size)) is not None:
        return buffer
    try:
        return torch.empty(size, dtype=torch.uint8, pin_memory=True)
    except (RuntimeError, MemoryError) as error:
        # The driver calls it "out of memory", also where the limit is another one.
        logger.warning("host memory cannot be pinned (%s); copies to the GPU are slower", str(error).partition("\n")[0])
        return torch.empty(size, dtype=torch.uint8)


def locked_bytes(size: int) -> torch.Tensor | None:
    """A buffer of whole pages that is locked until it goes; None if that cannot be."""
    whole = torch.empty(-(-size // PAGE) * PAGE + PAGE, dtype=torch.uint8)
    start = -whole.data_ptr() % PAGE
    length = -(-size // PAGE) * PAGE
    address = whole.data_ptr() + start
    if not lock_pages(address, length):
        return None
    weakref.finalize(whole.untyped_storage(), unlock_pages, address)
    return whole[start : start + size]


def laid_out(tensors: Sequence[torch.Tensor]) -> tuple[int, list[int]]:
    """Bytes of a buffer that holds `tensors`, and where in it each begins."""
    starts, end = [], 0
    for tensor in tensors:
        starts.append(end)
        end += math.ceil(tensor.nbytes / ALIGNMENT) * ALIGNMENT
    return end, starts


def views(buffer: torch.Tensor, like: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Tensors in `buffer`, uint8 and laid out by `laid_out`, of the shapes and precisions of `like`."""
    _, starts = laid_out(like)
    return [
        buffer[start : start + tensor.nbytes].view(tensor.dtype).view(tensor.shape)
        for start, tensor in zip(starts, like, strict=True)
    ]


def pinned_copies(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Copies of `tensors` in one pinned buffer; complete when this returns."""
    size, _ = laid_out(tensors)
    copies = views(pinned_bytes(size), tensors)
    for copy, tensor in zip(copies, tensors, strict=True):
        copy.copy_(tensor, non_blocking=True)
    for device in {tensor.device for tensor in tensors if tensor.is_cuda}:
        torch.cuda.current_stream(device).synchronize()
    return copies


def move_to_pinned(tensors: Sequence[torch.Tensor]) -> None:
    """Let each tensor have its numbers in pinned host memory, whatever device it was on.

    One that is not contiguous keeps its order of dimensions, which kernels go by, and is in ordinary memory.
    """
    chunk: list[torch.Tensor] = []
    for tensor in tensors:
        if not tensor.is_contiguous():
            tensor.data = tensor.data.to("cpu")
            continue
        chunk.append(tensor)
        if sum(each.nbytes for each in chunk) >= CHUNK_BYTES:
            move_chunk(chunk)
            chunk = []
    if chunk:
        move_chunk(chunk)


def move_chunk(tensors: Sequence[torch.Tensor]) -> None:
    """Move tensors to one pinned buffer."""
    for tensor, copy in zip(tensors, pinned_copies([tensor.data for tensor in tensors]), strict=True):
        tensor.data = copy
