"""In which precision the weights of a base model are stored, and on which device.

No family has to know of it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from rushes_service.models.loading.storing import Float8, ScaledFloat8, WeightStorage
from rushes_service.runtime.devices import name_of
from rushes_service.runtime.float8 import FP8, check_fast

if TYPE_CHECKING:
    from rushes_service.models.base import Architecture


def transformers_of(base: Architecture) -> list[Any]:
    """The transformers of a base model: one, or two experts."""
    found = base.transformer
    return list(found.values()) if isinstance(found, nn.ModuleDict) else [found]


def storage_for(base: Architecture, device: torch.device) -> WeightStorage | None:
    """How the transformer's weights are to be kept; `device` is where that is computed.

    Raises:
        ModelError: the device cannot compute so.
    """
    if base.model.fp8_fast:
        check_fast(device)
        return ScaledFloat8(base.blocks, device, fast=True)
    if base.model.fp8_scaled:
        return ScaledFloat8(base.blocks, device)
    return Float8(base.dtype) if base.model.fp8_base else None


def ensure_stored(base: Architecture) -> None:
    """Bring the transformers of a family that loads them by itself to how they are to be kept; most are so already."""
    for transformer in transformers_of(base) if base.storage is not None else ():
        if all(weight.dtype is not FP8 for weight in transformer.parameters()):
            base.storage.prepare(transformer)
            base.storage.finish(transformer)


def stored_as(base: Architecture) -> str:
    """How the transformer's weights are stored, for the receipt."""
    if base.model.fp8_fast:
        return f"{name_of(FP8)} with scales, products too"
    if base.model.fp8_scaled:
        return f"{name_of(FP8)} with scales"
    return name_of(FP8 if base.model.fp8_base else base.dtype)


@contextlib.contextmanager
def working_on(base: Architecture, device: torch.device) -> Iterator[None]:
    """Inside, `base` loads to, and encodes on, another device."""
    before, base.device = base.device, device
    try:
        yield
    finally:
        base.device = before
