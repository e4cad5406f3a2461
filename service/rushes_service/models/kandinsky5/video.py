"""Kandinsky 5 for clips, from words and a start image. `--f` counts latent frames, of which each but the first is four.

Facts are musubi-tuner 0.3.4's (kandinsky5_train_network.py): a start image gives the clip its size, its latents are a
draw from the VAE's posterior, and it takes the place of frame 0 before every step.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import ClassVar

import numpy as np
import torch
from diffusers import AutoencoderKLHunyuanVideo

from rushes.families.parameters import SampleParameters
from rushes.families.rows.kandinsky import KANDINSKY5_I2V, KANDINSKY5_T2V
from rushes.families.spec import ArchitectureSpec
from rushes.wire.jobs import VaeOptions
from rushes_service.models.conditioning import Conditioning
from rushes_service.models.hunyuan.decode import decode_hunyuan, encode_hunyuan
from rushes_service.models.inputs.images import check_images, open_image
from rushes_service.models.kandinsky5.base import SPATIAL_RATIO, START, Kandinsky5
from rushes_service.models.kandinsky5.start_image import fitting, stretched
from rushes_service.models.vae.tiles import TilePlan, plan_tiles

FIELD = "image_path"
FRAMES_AT_ONCE = 4
"""Decoded frames handed on together."""


class Kandinsky5TextToVideo(Kandinsky5):
    """kandinsky5-t2v."""

    spec: ClassVar[ArchitectureSpec] = KANDINSKY5_T2V
    pipelines = ("Kandinsky5T2VPipeline",)
    vae_class = AutoencoderKLHunyuanVideo
    vae_dtype_on_card = torch.float16  # as HunyuanVideo, whose VAE it is
    text_tokens = 256
    chunked = True

    @classmethod
    def check(cls, parameters: SampleParameters) -> None:
        if parameters.image_path is not None:
            check_images([parameters.image_path], FIELD)

    def completed(self, parameters: SampleParameters) -> SampleParameters:
        if parameters.image_path is None:
            return parameters
        width, height = fitting(*open_image(parameters.image_path, FIELD).size)
        return parameters.model_copy(update={"width": width, "height": height})

    def plan_tiles(self, parameters: SampleParameters, vae: VaeOptions) -> TilePlan | None:
        return plan_tiles(vae, parameters.width, parameters.height, SPATIAL_RATIO)

    @torch.no_grad()
    def encode_images(self, parameters: SampleParameters, conditioning: Conditioning, vae: VaeOptions) -> Conditioning:
        if parameters.image_path is None:
            return conditioning
        picture = stretched(np.array(open_image(parameters.image_path, FIELD)), parameters.width, parameters.height)
        posterior = encode_hunyuan(self.vae, picture.to(self.vae.device, self.vae.dtype), vae)
        drawn = posterior.sample(self.posterior_generator(parameters)) * self.vae.config.scaling_factor
        return {**conditioning, START: drawn.permute(0, 2, 3, 4, 1).to(self.device).float()}

    def posterior_generator(self, parameters: SampleParameters) -> torch.Generator:
        """What draws the start image's latents. In the reference nothing seeds it; here the sample's seed does."""
        return self.noise_generator(parameters.seed)

    def decode(self, latents: torch.Tensor, vae: VaeOptions) -> Generator[torch.Tensor, None, None]:
        unscaled = (latents / self.decoder.config.scaling_factor).to(self.decoder.device, self.decoder.dtype)
        for clip in decode_hunyuan(self.decoder, unscaled, vae)[0].split(FRAMES_AT_ONCE, dim=1):
            yield (clip.float() / 2 + 0.5).clamp(0, 1)


class Kandinsky5ImageToVideo(Kandinsky5TextToVideo):
    """kandinsky5-i2v."""

    spec: ClassVar[ArchitectureSpec] = KANDINSKY5_I2V
    pipelines = ("Kandinsky5I2VPipeline",)
