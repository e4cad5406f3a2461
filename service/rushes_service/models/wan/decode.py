"""Wan's VAE, one latent frame at a time.

The VAE is causal in time: what a frame needs of earlier ones is kept in a feature cache, one entry per causal
convolution. Feeding it frame by frame gives the bits of the full decode (1, 4, 4, ... frames) in memory that does
not grow with the clip. The cache is our own, so a consumer that stops early leaves nothing behind in the VAE.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from diffusers import AutoencoderKLWan

from rushes_service.models.vae.tiles import TilePlan
from rushes_service.runtime.compat_diffusers_models import WanCausalConv3d, decode_wan_frame


def stream_wan(vae: AutoencoderKLWan, latents: torch.Tensor, tiles: TilePlan | None = None) -> Iterator[torch.Tensor]:
    """Decode unscaled latents [1, C, T, h, w].

    Yields:
        pixels in -1..1, [1, 3, 1, H, W] and then T - 1 times [1, 3, 4, H, W], in the VAE's dtype; bitwise those of
        `vae.decode`. With `tiles` everything at once, approximately.
    """
    if tiles is not None:
        yield tiled(vae, latents, tiles)
        return
    cache: list[torch.Tensor | None] = [None] * sum(isinstance(m, WanCausalConv3d) for m in vae.decoder.modules())
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


@torch.no_grad()
def tiled(vae: AutoencoderKLWan, latents: torch.Tensor, tiles: TilePlan) -> torch.Tensor:
    """The whole clip decoded in spatial tiles; the VAE is left without tiling."""
    vae.enable_tiling(tiles.size, tiles.size, tiles.stride, tiles.stride)
    try:
        return vae.decode(latents, return_dict=False)[0]
    finally:
        vae.clear_cache()
        vae.use_tiling = False
