"""Precisions that weights are kept in, other than the one they are computed with. Applied while a model is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import nn

from rushes.errors import ConfigError
from rushes_service.runtime.float8 import FP8, block_linears, stored_in_float8


class WeightStorage(Protocol):
    """How the weights of a transformer are kept."""

    dtype: torch.dtype | None
    """Precision of parameters that `prepare` has changed."""

    def prepare(self, model: Any) -> None:
        """Called with a model whose weights lie on `meta`, or are there already; raises `ConfigError`."""

    def arrived(self, model: nn.Module, name: str) -> None:
        """Called when the parameter called `name` is there. Several threads call it."""

    def finish(self, model: Any) -> None:
        """Called with a model whose weights are all there, if `arrived` was not called for each."""


class Float8(WeightStorage):
    """Float8 (e4m3) without scales, by diffusers' layerwise casting; each layer computes in `computed`.

    Norms, embeddings and modulation stay as they are: they are small, and rounding them shows.
    """

    dtype = FP8

    def __init__(self, computed: torch.dtype) -> None:
        self._computed = computed

    def prepare(self, model: Any) -> None:
        if not hasattr(model, "enable_layerwise_casting"):
            raise ConfigError(f"--fp8_base: weights of a {type(model).__name__} cannot be kept in float8")
        model.enable_layerwise_casting(storage_dtype=FP8, compute_dtype=self._computed)

    def arrived(self, model: nn.Module, name: str) -> None:
        pass

    def finish(self, model: Any) -> None:
        pass


class ScaledFloat8(WeightStorage):
    """Float8 with scales for the linear layers of the blocks; all else stays as it is.

    Args:
        blocks: names of the transformer's lists of blocks.
        device: where scales are computed, one layer at a time.
        fast: products are in float8, too, see `FastFloat8Linear`.
    """

    dtype = None

    def __init__(self, blocks: Sequence[str], device: torch.device, *, fast: bool = False) -> None:
        self._fast = fast
        self._blocks = blocks
        self._device = device
        self._layers: dict[str, nn.Linear] = {}

    def prepare(self, model: Any) -> None:
        self._layers = dict(block_linears(model, self._blocks))

    def arrived(self, model: nn.Module, name: str) -> None:
        module, _, leaf = name.rpartition(".")
        if leaf == "weight" and module in self._layers:
            stored_in_float8(self._layers[module], scaled=True, device=self._device, fast=self._fast)

    def finish(self, model: Any) -> None:
        for layer in self._layers.values():
            stored_in_float8(layer, scaled=True, device=self._device, fast=self._fast)
