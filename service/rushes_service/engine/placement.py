"""Where the parts of a base model lie, and in which precision they are stored.

All of it changes modules that are loaded already, so that no family has to know. Weights in float8 without scales and
offloading are diffusers' own hooks.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from diffusers.hooks import HookRegistry, apply_group_offloading
from torch import nn

from rushes.errors import ConfigError
from rushes_service.runtime.devices import name_of
from rushes_service.runtime.float8 import FP8, block_linears, stored_in_float8

if TYPE_CHECKING:
    from rushes_service.models.base import Architecture

CPU = torch.device("cpu")
OFFLOADING = "group_offloading"
"""Name of diffusers' hook."""


def free_memory(device: torch.device) -> None:
    """Give back what nobody uses any more."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def transformers_of(base: Architecture) -> list[Any]:
    """The transformers of a base model: one, or two experts."""
    whole = base.transformer
    return list(whole.values()) if isinstance(whole, nn.ModuleDict) else [whole]


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
    """True for a transformer that `offload_blocks` has been at."""
    return any(offload_hook(part) is not None for part in module.modules())


def offload_hook(module: nn.Module) -> Any:
    """The hook that moves a module in and out, or None."""
    registry: HookRegistry | None = getattr(module, "_diffusers_hook", None)
    return registry and registry.get_hook(OFFLOADING)


def park(base: Architecture) -> None:
    """Put every block back where it is kept.

    A step that failed may have left some on the device: what a LoRA wrote to them there would be lost.
    """
    for transformer in transformers_of(base):
        for module in transformer.modules():
            if (hook := offload_hook(module)) is not None:
                hook.group.offload_()


@contextlib.contextmanager
def working_on(base: Architecture, device: torch.device) -> Iterator[None]:
    """Inside, `base` loads to, and encodes on, another device."""
    before, base.device = base.device, device
    try:
        yield
    finally:
        base.device = before


@contextlib.contextmanager
def aside(base: Architecture, *, wanted: bool = True) -> Iterator[None]:
    """Inside, the transformer is on the CPU, if that is `wanted`; an offloaded one is there anyway."""
    moved = [part for part in transformers_of(base) if wanted and not is_offloaded(part)]
    try:
        for part in moved:
            part.to(CPU)
        if moved:
            # Not for nothing: walking all objects of a worker takes longer than a cached prompt.
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
