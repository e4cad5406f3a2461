"""Where the parts of a base model lie, and in which precision they are stored.

These functions change loaded modules, so no family has to know of them. Weights in float8 without scales and offloading
use diffusers' own hooks.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from diffusers.hooks import apply_group_offloading
from torch import nn

from rushes.errors import ConfigError
from rushes_service.runtime.compat_diffusers import offload_group, offload_hook
from rushes_service.runtime.devices import name_of
from rushes_service.runtime.float8 import FP8, block_linears, stored_in_float8

if TYPE_CHECKING:
    from rushes_service.models.base import Architecture

CPU = torch.device("cpu")


def free_memory(device: torch.device) -> None:
    """Collect garbage and return cached blocks to the device."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


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


def store_in_scaled_float8(base: Architecture, device: torch.device) -> None:
    """Keep the weights of the transformer's blocks in float8 with scales; all else stays as it is.

    Args:
        device: where that is computed, one layer at a time.
    """
    for transformer in transformers_of(base):
        for _, layer in block_linears(transformer, base.blocks):
            stored_in_float8(layer, scaled=True, device=device)


def stored_as(base: Architecture) -> str:
    """How the transformer's weights are stored, for the receipt."""
    if base.model.fp8_scaled:
        return f"{name_of(FP8)} with scales"
    return name_of(FP8 if base.model.fp8_base else base.dtype)


def offload_blocks(base: Architecture, device: torch.device) -> None:
    """Keep the transformer in host memory; each block is on `device` only while it computes, the next on its way."""
    for transformer in transformers_of(base):
        if not is_offloaded(transformer):
            apply_group_offloading(
                transformer,
                onload_device=device,
                offload_device=CPU,
                offload_type="block_level",
                num_blocks_per_group=1,
                use_stream=device.type == "cuda",
            )
    if not base.vae_in_denoise:
        base.vae.to(CPU)


def is_offloaded(module: nn.Module) -> bool:
    """True if `offload_blocks` was called for this transformer."""
    return any(offload_hook(part) is not None for part in module.modules())


def offload_all(base: Architecture) -> None:
    """Move every block back to host memory.

    A failed step may leave blocks on the device; changes that a LoRA makes there would be lost.
    """
    for transformer in transformers_of(base):
        for module in transformer.modules():
            offload_group(module)


@contextlib.contextmanager
def working_on(base: Architecture, device: torch.device) -> Iterator[None]:
    """Inside, `base` loads to, and encodes on, another device."""
    before, base.device = base.device, device
    try:
        yield
    finally:
        base.device = before


@contextlib.contextmanager
def transformer_on_cpu(base: Architecture, *, enabled: bool = True) -> Iterator[None]:
    """Keep the transformer on the CPU while inside, if `enabled`; an offloaded one is there anyway."""
    moved = [part for part in transformers_of(base) if enabled and not is_offloaded(part)]
    try:
        for part in moved:
            part.to(CPU)
        if moved:
            # Only if something moved: gc.collect() takes longer than encoding from the cache.
            free_memory(base.device)
        yield
    finally:
        for part in moved:
            part.to(base.device)


@contextlib.contextmanager
def vae_on_device(base: Architecture) -> Iterator[None]:
    """Inside, the VAE is on the device; afterwards where it was."""
    vae = base.vae
    before = vae.device
    try:
        if before != base.device:
            vae.to(base.device)
        yield
    finally:
        if before != base.device:
            vae.to(before)
            free_memory(base.device)


def load(base: Architecture, *, offload: bool) -> None:
    """Load `base`, store its weights as asked, and bring it to its device or, with `offload`, leave it in host memory.

    What is to be smaller on the device than in its files is made so before it gets there.
    """
    device, fp8 = base.device, base.model.fp8_base or base.model.fp8_scaled
    with working_on(base, CPU if fp8 or offload else device):
        base.load()
    if base.model.fp8_scaled:
        store_in_scaled_float8(base, device)
    elif fp8:
        store_in_fp8(base)
    if offload:
        offload_blocks(base, device)
    elif fp8:
        for part in (*transformers_of(base), base.vae):
            part.to(device)
