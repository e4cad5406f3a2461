"""Kandinsky 5 for pictures. The reference denoises and then fails to decode; pixels are diffusers'."""

from __future__ import annotations

from collections.abc import Generator
from typing import ClassVar

import torch
from diffusers import AutoencoderKL

from rushes.families.parameters import SampleParameters
from rushes.families.rows.kandinsky import KANDINSKY5_T2I
from rushes.families.spec import ArchitectureSpec
from rushes.wire.jobs import VaeOptions
from rushes_service.models.kandinsky5.base import Kandinsky5
from rushes_service.models.pictures import picture
from rushes_service.models.vae.kl import decode_kl, plan_kl_tiles
from rushes_service.models.vae.tiles import TilePlan


class Kandinsky5TextToImage(Kandinsky5):
    """kandinsky5-t2i."""

    spec: ClassVar[ArchitectureSpec] = KANDINSKY5_T2I
    pipelines = ("Kandinsky5T2IPipeline",)
    vae_class = AutoencoderKL
    vae_dtype_on_card = torch.float32  # as FLUX, whose VAE it is
    text_tokens = 512

    def plan_tiles(self, parameters: SampleParameters, vae: VaeOptions) -> TilePlan | None:
        return plan_kl_tiles(vae, parameters.width, parameters.height)

    def warnings(self, parameters: SampleParameters, vae: VaeOptions) -> tuple[str, ...]:
        warnings = super().warnings(parameters, vae)
        if vae.chunk_size is not None:
            warnings = (*warnings, "--vae_chunk_size changes nothing for Kandinsky 5's pictures: they have no time")
        return warnings

    def decode(self, latents: torch.Tensor, vae: VaeOptions) -> Generator[torch.Tensor, None, None]:
        # Without the shift that FLUX's VAE has for FLUX: neither the reference nor diffusers adds it.
        unscaled = (latents[:, :, 0] / self.decoder.config.scaling_factor).to(self.decoder.device, self.decoder.dtype)
        yield picture(decode_kl(self.decoder, unscaled, vae))
