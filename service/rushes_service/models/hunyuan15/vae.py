"""HunyuanVideo 1.5's VAE, in tiles unless they are switched off: 128 pixels, of which neighbours share a quarter.

As musubi-tuner 0.3.4 does by default (`--vae_sample_size 128`). Tiles are what keeps the attention in the middle of the
VAE small, which has a mask over all pairs of positions.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from diffusers import AutoencoderKLHunyuanVideo15

from rushes.wire.jobs import VaeOptions

SPATIAL_RATIO = 16
DEFAULT_TILE = 128
TILE_MULTIPLE = 64
"""Pixels. Only so is the shared quarter a whole number of latents."""

SHARED = 0.25


def tile_size(options: VaeOptions) -> int | None:
    """Pixels of a tile; None if the whole picture is to be decoded at once."""
    if options.bulk_decode:
        return None
    asked = options.spatial_tile_sample_min_size or DEFAULT_TILE
    return max(asked // TILE_MULTIPLE * TILE_MULTIPLE, TILE_MULTIPLE)


@contextlib.contextmanager
def tiled(vae: AutoencoderKLHunyuanVideo15, options: VaeOptions) -> Iterator[None]:
    """Inside, `vae` works in tiles as `options` ask; afterwards it does not."""
    if (size := tile_size(options)) is not None:
        vae.enable_tiling(size, size, size // SPATIAL_RATIO, size // SPATIAL_RATIO, SHARED)
    try:
        yield
    finally:
        vae.use_tiling = False


@torch.no_grad()
def decoded(vae: AutoencoderKLHunyuanVideo15, latents: torch.Tensor, options: VaeOptions) -> torch.Tensor:
    """Pixels [1, 3, 4(T-1)+1, 16h, 16w], about -1..1 and not clamped, of scaled latents [1, C, T, h, w]."""
    unscaled = (latents / vae.config.scaling_factor).to(vae.device, vae.dtype)
    with tiled(vae, options):
        return vae.decode(unscaled, return_dict=False)[0]


@torch.no_grad()
def encoded(vae: AutoencoderKLHunyuanVideo15, pixels: torch.Tensor, options: VaeOptions) -> torch.Tensor:
    """Latents [1, C, T, h, w] of `pixels` [1, 3, F, H, W] in -1..1: the mode of the posterior, scaled."""
    with tiled(vae, options):
        posterior = vae.encode(pixels.to(vae.device, vae.dtype), return_dict=False)[0]
    return (posterior.mode() * vae.config.scaling_factor).float()
