"""A tiny VAE of Qwen-Image's kind, with random weights. See `tiny_parts`."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKLQwenImage

from rushes_service.models.tiny_parts import FAINT, blur, rescale, stretch_colours


@torch.no_grad()
def qwen_image_vae(channels: int = 3, width: int = 4) -> AutoencoderKLQwenImage:
    """Qwen-Image's VAE layout (16 channels, 8 times smaller), `width` channels wide at its finest."""
    model = AutoencoderKLQwenImage(
        base_dim=width, z_dim=16, dim_mult=[1, 2, 4, 4], num_res_blocks=1, attn_scales=[], input_channels=channels
    ).eval()
    model.requires_grad_(False)
    spatial = [part for part in model.decoder.modules() if isinstance(part, torch.nn.Conv2d)]
    for layer in (*(part for part in spatial if part.kernel_size == (3, 3)), model.decoder.conv_out):
        blur(layer)
    mean = torch.tensor(model.config.latents_mean).view(1, 16, 1, 1, 1)
    std = torch.tensor(model.config.latents_std).view(1, 16, 1, 1, 1)
    last = model.decoder.conv_out
    rescale(last, FAINT)
    stretch_colours(last, model.decode(torch.randn(1, 16, 1, 16, 16) * std + mean).sample)
    return model
