"""FLUX's VAE: single pictures, whole or in tiles."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL

from rushes.wire.jobs import VaeOptions
from rushes_service.models.vae.tiles import TilePlan, plan_tiles

SPATIAL_RATIO = 8

TILE_MULTIPLE = 32
"""Pixels. Neighbouring tiles share a quarter; only so is that quarter a whole number of latents."""

SHARED = 0.25


def plan_kl_tiles(options: VaeOptions, width: int, height: int) -> TilePlan | None:
    """The tiling that `options` ask for; None if none is, or the picture fits one tile."""
    plan = plan_tiles(options, width, height, TILE_MULTIPLE)
    return plan and TilePlan(plan.size, int(plan.size * (1 - SHARED)))


@torch.no_grad()
def decode_kl(vae: AutoencoderKL, latents: torch.Tensor, options: VaeOptions) -> torch.Tensor:
    """Pixels [1, 3, 8h, 8w], about -1..1 and not clamped, of unscaled latents [1, C, h, w].

    Latents must have the VAE's dtype and device. In tiles the picture is approximate; the VAE is left without them.
    """
    height, width = (SPATIAL_RATIO * size for size in latents.shape[-2:])
    tiles = plan_kl_tiles(options, width, height)
    if tiles is None:
        return vae.decode(latents, return_dict=False)[0]
    vae.tile_sample_min_size, vae.tile_latent_min_size = tiles.size, tiles.size // SPATIAL_RATIO
    vae.tile_overlap_factor = SHARED
    vae.enable_tiling()
    try:
        return vae.decode(latents, return_dict=False)[0]
    finally:
        vae.disable_tiling()
