"""In which precision the weights of a base model are stored, and on which device.

These functions change loaded modules, so no family has to know of them. Weights in float8 without scales are diffusers'
layerwise casting.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from rushes.errors import ConfigError
from rushes_service.runtime.devices import name_of
from rushes_service.runtime.float8 import FP8, block_linears, stored_in_float8

if TYPE_CHECKING:
    from rushes_service.models.base import Architecture


def transformers_of(base: Architecture) -> list[Any]:
    """The transformers of a base model: one, or two experts."""
    found = base.transformer
    return list(found.values()) if isinstance(found, nn.ModuleDict) else [found]


def store_in_fp8(base: Architecture) -> None:
    """Keep the transformer's weights in float8 (e4m3); each layer computes in the base model's precision.

    Norms, embeddings and modulation stay as they are: they are small, and rounding them shows.

    Raises:
        ConfigError: the transformer cannot be kept so.
    """
    for transformer in transformers_of(base):
        if not hasattr(transformer, "enable_layerwise_casting"):
            raise ConfigError(f"--fp8_base: weights of a {type(transformer).__name__} cannot be kept in float8")
        transformer.enable_layerwise_casting(storage_dtype=FP8, compute_dtype=base.dtype)


def store_in_scaled_float8(base: Architecture, device: torch.device, home: torch.device) -> None:
    """Keep the weights of the transformer's blocks in float8 with scales; all else stays as it is.

    Args:
        device: where that is computed, one layer at a time.
        home: where the result is to lie.
    """
    for transformer in transformers_of(base):
        for _, layer in block_linears(transformer, base.blocks):
            stored_in_float8(layer, scaled=True, device=device, home=home)


def stored_as(base: Architecture) -> str:
    """How the transformer's weights are stored, for the receipt."""
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
