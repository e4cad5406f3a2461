"""Qwen-Image's VAE: Wan's, for single pictures; Krea 2 has it too."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKLQwenImage

from rushes_service.models.vae.tiles import TilePlan

SPATIAL_RATIO = 8
LATENT_CHANNELS = 16


def statistics(vae: AutoencoderKLQwenImage) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of latents, [1, 16, 1, 1, 1] each, where and as the VAE computes."""
    mean, std = (
        torch.tensor(values, device=vae.device, dtype=vae.dtype).view(1, -1, 1, 1, 1)
        for values in (vae.config.latents_mean, vae.config.latents_std)
    )
    return mean, std


@torch.no_grad()
def encode_qwen(vae: AutoencoderKLQwenImage, pixels: torch.Tensor) -> torch.Tensor:
    """Scaled latents [1, 16, 1, h, w] of a picture [1, C, H, W] in -1..1: the posterior's mode, as in the reference."""
    mean, std = statistics(vae)
    posterior = vae.encode(pixels[:, :, None].to(vae.device, vae.dtype)).latent_dist
    return (posterior.mode() - mean) / std


@torch.no_grad()
def decode_qwen(vae: AutoencoderKLQwenImage, latents: torch.Tensor, tiles: TilePlan | None = None) -> torch.Tensor:
    """Pixels [1, C, H, W] in -1..1 of scaled latents [1, 16, 1, h, w]. The VAE is left without tiling."""
    mean, std = statistics(vae)
    unscaled = latents.to(vae.device, vae.dtype) * std + mean
    if tiles is not None:
        vae.enable_tiling(tiles.size, tiles.size, tiles.stride, tiles.stride)
    try:
        return vae.decode(unscaled, return_dict=False)[0][:, :, 0]
    finally:
        vae.clear_cache()
        vae.use_tiling = False
