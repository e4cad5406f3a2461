"""Weights into a model that has none: each from its file straight to its device, in the precision it is kept in.

The model lies on `meta`, where it takes no memory. Nothing is read twice, and the host holds chunks only (see
`files.transfer`), beside the model itself if that is to lie there.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from rushes_service.models.loading.files.naming import Slot
from rushes_service.models.loading.files.transfer import Transfer, chunk_for
from rushes_service.models.loading.files.weights import WeightReader
from rushes_service.models.loading.storing import WeightStorage
from rushes_service.runtime.devices import CPU, use_in_this_thread

READERS = 4
"""Threads that read at once: what a fast disk needs to be at its best, and a slow one is not hurt by."""


@dataclass(frozen=True)
class Destination:
    """Where a part of a model is to lie, and how its weights are kept there; by default as they are computed with."""

    device: torch.device = CPU
    storage: WeightStorage | None = None


ON_CPU = Destination()


@dataclass(frozen=True)
class Weight:
    """A parameter or buffer to be read: its names in the model (several if they share it), its slot and key.

    `computed` is the precision that the model computes it in.
    """

    names: tuple[str, ...]
    slot: Slot
    key: str
    computed: torch.dtype


def fill(model: nn.Module, weights: Sequence[Weight], reader: WeightReader, destination: Destination) -> None:
    """Read `weights` into `model`, and bring what else it has to the device.

    Raises:
        ModelError: a file is cut short or cannot be read.
    """
    empty = model.state_dict()
    largest = max((reader.entries[weight.key].bytes for weight in weights), default=0)
    count = min(READERS, os.cpu_count() or 1)
    local = threading.local()

    def begin() -> None:
        use_in_this_thread(destination.device)
        local.way = Transfer(destination.device, chunk_for(largest, count))

    def read(weight: Weight) -> None:
        name = weight.names[0]
        computed, kept = precisions(weight, empty[name], destination.storage)
        assign(model, weight.names, reader.read(weight.slot, weight.key, empty[name].shape, computed, kept, local.way))
        if destination.storage is not None:
            destination.storage.arrived(model, name)

    with ThreadPoolExecutor(count, initializer=begin) as pool:
        each(pool, read, sorted(weights, key=lambda weight: in_file(reader, weight)))
    model.to(destination.device)


def precisions(weight: Weight, empty: torch.Tensor, storage: WeightStorage | None) -> tuple[torch.dtype, torch.dtype]:
    """The precisions that a weight is computed in and kept in; `empty` is what the model has in its place."""
    if not empty.is_floating_point():
        return empty.dtype, empty.dtype
    # A storage that changes whole parameters has done so on meta.
    changed = storage is not None and empty.dtype is storage.dtype
    return weight.computed, empty.dtype if changed else weight.computed


def each(pool: ThreadPoolExecutor, call: Callable[[Any], None], items: Sequence[Any]) -> None:
    """Call `call` with each item; the first error ends all that has not begun."""
    futures = [pool.submit(call, item) for item in items]
    try:
        for future in futures:
            future.result()
    except BaseException:
        pool.shutdown(wait=True, cancel_futures=True)
        raise


def in_file(reader: WeightReader, weight: Weight) -> tuple[object, ...]:
    """Where a weight lies: files are read from their beginnings to their ends."""
    entry = reader.entries[weight.key]
    return str(entry.file), entry.start, weight.slot.rows or ()


def assign(model: nn.Module, names: Sequence[str], tensor: torch.Tensor) -> None:
    """Let a parameter or buffer of `model` be `tensor`; names that share it have one parameter."""
    parameter = nn.Parameter(tensor, requires_grad=False) if tensor.is_floating_point() else tensor
    for name in names:
        module, _, leaf = name.rpartition(".")
        owner = model.get_submodule(module)
        setattr(owner, leaf, parameter if isinstance(getattr(owner, leaf), nn.Parameter) else tensor)
