"""Wan VAEs with random weights for the decode benchmarks."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKLWan

from rushes_service.models.wan.tiny import vae as tiny_vae

WIDTHS = {"tiny": 4, "sixth": 16, "real": 96}
"""Channels at the finest level. `real` is Wan2.1's own shape, `sixth` a sixth as wide: a 36th of the work."""


def build_vae(name: str) -> AutoencoderKLWan:
    """The VAE called `name`, float32 on the CPU, the same at every call."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if name == "tiny":
            return tiny_vae()
        return AutoencoderKLWan(base_dim=WIDTHS[name]).eval().requires_grad_(False)


def random_latents(frames: int, height: int, width: int) -> torch.Tensor:
    """Unscaled latents [1, 16, T, height / 8, width / 8] of a clip of `frames` (4k + 1) frames."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(1, 16, (frames - 1) // 4 + 1, height // 8, width // 8, generator=generator)
