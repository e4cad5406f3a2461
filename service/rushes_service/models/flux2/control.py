"""FLUX.2's control images: their size, their latents, their places behind the picture.

Facts are musubi-tuner 0.3.4's (flux_2/flux2_utils.py, `preprocess_control_image`). A picture above the limit is cut to
a square: in the reference one of 2024 pixels where it is alone, which is no multiple of 16, and stops it; here 2016.
"""

from __future__ import annotations

import numpy as np
import torch
from diffusers import AutoencoderKLFlux2
from torch.nn.functional import pixel_unshuffle

from rushes.errors import PromptError
from rushes_service.models.conditioning import Conditioning
from rushes_service.models.inputs.buckets import bucket
from rushes_service.models.inputs.images import fit, open_image

CONTROL = "control_{}"
"""Name of a control image's latents in the conditioning."""

FIELD = "control_image_path"

ALONE_LIMIT, SEVERAL_LIMIT = 2024, 1024
"""Side in pixels of the square that a control image may be as large as, alone and beside others."""

ALONE_SIDE = 2016
"""Side of a single larger one: the next multiple of 16 below the reference's 2024."""

TIME_STEP = 10
"""Between the places in time of the picture and of each control image."""


def control_pixels(path: str, *, several: bool) -> np.ndarray:
    """A control image as the VAE sees it: uint8 [H, W, 3], sides multiples of 16.

    Raises:
        PromptError: it cannot be read, or is too small.
    """
    image = open_image(path, FIELD)
    limit, side = (SEVERAL_LIMIT, SEVERAL_LIMIT) if several else (ALONE_LIMIT, ALONE_SIDE)
    area = image.width * image.height
    size = bucket(image.size, area) if area <= limit * limit else (side, side)
    if size is None:
        raise PromptError(
            f"--ci {path} has {image.width} x {image.height} pixels: too small, FLUX.2 needs 16 x 16 at least",
            key=FIELD,
        )
    return fit(image, *size)


def statistics(vae: AutoencoderKLFlux2) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of patches of latents, [1, 128, 1, 1] each, as the VAE has learnt them."""
    mean, variance = (each.view(1, -1, 1, 1).to(vae.dtype) for each in (vae.bn.running_mean, vae.bn.running_var))
    return mean, torch.sqrt(variance + vae.config.batch_norm_eps)


@torch.no_grad()
def encode_control(vae: AutoencoderKLFlux2, pixels: torch.Tensor) -> torch.Tensor:
    """Patches [1, 128, h, w] of a picture's latents: the posterior's mean, scaled."""
    mean, deviation = statistics(vae)
    latents = vae.encode(pixels.to(vae.device, vae.dtype)).latent_dist.mode()
    return (pixel_unshuffle(latents, 2) - mean) / deviation


def control_tokens(conditioning: Conditioning) -> tuple[torch.Tensor | None, torch.Tensor]:
    """Tokens [1, n, 128] of all control images and their places [1, n, 4]; None if there are none."""
    tokens, places = [], []
    for index in range(sum(name.startswith(CONTROL.format("")) for name in conditioning)):
        latents = conditioning[CONTROL.format(index)]
        rows, columns = latents.shape[-2:]
        tokens.append(latents.flatten(2).transpose(1, 2))
        time = torch.tensor([TIME_STEP * (index + 1)])
        places.append(torch.cartesian_prod(time, torch.arange(rows), torch.arange(columns), torch.arange(1)))
    if not tokens:
        return None, torch.empty(1, 0, 4)
    return torch.cat(tokens, dim=1), torch.cat(places)[None]
