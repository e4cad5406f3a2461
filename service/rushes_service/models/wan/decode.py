"""Wan's VAE, one latent frame at a time.

The VAE is causal in time: what a frame needs of earlier ones is kept in a feature cache, one entry per causal
convolution. Feeding it frame by frame gives the bits of the full decode (1, 4, 4, ... frames) in memory that does
not grow with the clip. The cache is our own, so a consumer that stops early leaves nothing behind in the VAE.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch
from diffusers import AutoencoderKLWan

from rushes_service.models.vae.tiles import TilePlan
from rushes_service.runtime.compat_diffusers_models import (
    WanCausalConv3d,
    decode_wan_frame,
    wan_patches,
    wan_pixels,
)


def stream_wan(vae: AutoencoderKLWan, latents: torch.Tensor, tiles: TilePlan | None = None) -> Iterator[torch.Tensor]:
    """Decode unscaled latents [1, C, T, h, w].

    Yields:
        pixels in -1..1, [1, 3, 1, H, W] and then T - 1 times [1, 3, 4, H, W], in the VAE's dtype; bitwise those of
        `vae.decode`. With `tiles` those of the VAE's own tiling, approximately.
    """
    if tiles is not None:
        yield from tiled(vae, latents, tiles)
        return
    cache = empty_cache(vae)
    try:
        with torch.no_grad():
            features = vae.post_quant_conv(latents)
        for index in range(features.shape[2]):
            yield next_frames(vae, features[:, :, index : index + 1], cache, first=index == 0)
    finally:
        cache.clear()


@torch.no_grad()
def next_frames(
    vae: AutoencoderKLWan, features: torch.Tensor, cache: list[torch.Tensor | None], *, first: bool
) -> torch.Tensor:
    """Pixels of one latent frame; `cache` carries what later frames need."""
    return decode_wan_frame(vae, features, cache, first=first).clamp(-1.0, 1.0)


def empty_cache(vae: AutoencoderKLWan) -> list[torch.Tensor | None]:
    """A feature cache before the first frame."""
    return [None] * sum(isinstance(module, WanCausalConv3d) for module in vae.decoder.modules())


def tiled(vae: AutoencoderKLWan, latents: torch.Tensor, tiles: TilePlan) -> Iterator[torch.Tensor]:
    """The clip in spatial tiles, one after the other, bitwise `AutoencoderKLWan.tiled_decode` of diffusers.

    The device holds the features of one tile; its pixels wait in host memory until all are there to be blended, which
    is done for the frames of one latent at a time.
    """
    ratio = vae.spatial_compression_ratio
    stride, size = tiles.stride // ratio, tiles.size // ratio
    starts = [range(0, length, stride) for length in latents.shape[-2:]]
    rows = [
        [list(tile_patches(vae, latents[..., top : top + size, left : left + size])) for left in starts[1]]
        for top in starts[0]
    ]
    for index in range(latents.shape[2]):
        clip = blended(vae, [[tile[index] for tile in row] for row in rows], tiles)
        height, width = (length * ratio for length in latents.shape[-2:])
        yield wan_pixels(vae, clip)[..., :height, :width].clamp(-1.0, 1.0).to(latents.device)


def tile_patches(vae: AutoencoderKLWan, latents: torch.Tensor) -> Iterator[torch.Tensor]:
    """The frames of each latent of one tile, on the CPU."""
    cache = empty_cache(vae)
    for index in range(latents.shape[2]):
        with torch.no_grad():
            features = vae.post_quant_conv(latents[:, :, index : index + 1])
            yield wan_patches(vae, features, cache, first=index == 0).cpu()


@torch.no_grad()
def blended(vae: AutoencoderKLWan, rows: list[list[torch.Tensor]], tiles: TilePlan) -> torch.Tensor:
    """Tiles of the same frames as one clip; each is blended into those above and left of it, which it changes."""
    patch = vae.config.patch_size or 1
    stride, overlap = tiles.stride // patch, (tiles.size - tiles.stride) // patch
    for above, row in pairwise([None, *rows]):
        for column, tile in enumerate(row):
            if above is not None:
                vae.blend_v(above[column], tile, overlap)
            if column:
                vae.blend_h(row[column - 1], tile, overlap)
    return torch.cat([torch.cat([tile[..., :stride, :stride] for tile in row], dim=-1) for row in rows], dim=-2)
