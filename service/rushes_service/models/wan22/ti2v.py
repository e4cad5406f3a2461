"""wan2.2-ti2v-5b: one small model for words alone and for a start image, with a VAE of 16 pixels per latent.

musubi-tuner 0.3.4 does not know this model. Facts are those of diffusers' `WanPipeline` and `WanImageToVideoPipeline`
with `expand_timesteps`: each token has a timestep of its own; with a start image those of the first frame have 0, and
its latents are the picture's at each step and in the end.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any, ClassVar

import torch
from diffusers import UniPCMultistepScheduler, WanPipeline
from torch import nn

from rushes.families.parameters import SampleParameters
from rushes.families.rows.wan import WAN22_TI2V_5B
from rushes.families.spec import ArchitectureSpec
from rushes_service.models.base import Denoised, OnStep
from rushes_service.models.conditioning import Conditioning, ConditioningCache
from rushes_service.models.wan.i2v import FIELD, WanWithStartImage

FIRST_FRAME = "first_frame"
"""Key of the start image's latents, [1, 48, 1, h, w]."""

CHANNELS = 48


class WanTextImageToVideo(WanWithStartImage):
    """wan2.2-ti2v-5b."""

    spec: ClassVar[ArchitectureSpec] = WAN22_TI2V_5B
    pipelines = ("WanPipeline", "WanImageToVideoPipeline")
    in_channels = CHANNELS
    out_channels = CHANNELS
    spatial_ratio = 16

    def pipeline(self, **parts: Any) -> WanPipeline:
        return super().pipeline(expand_timesteps=True, **parts)

    def scheduler(self, shift: float) -> UniPCMultistepScheduler:
        return UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift)

    def encode(self, parameters: SampleParameters, cache: ConditioningCache) -> Conditioning:
        given = {}
        if parameters.image_path is not None:
            pictures = {0: (parameters.image_path, FIELD)}
            given[FIRST_FRAME] = self.picture_latents(parameters, pictures, 1, cache)
        return {**super().encode(parameters, cache), **given}

    def noise(self, parameters: SampleParameters, conditioning: Conditioning) -> torch.Tensor:
        frames = (parameters.frame_count - 1) // 4 + 1
        size = (parameters.height // self.spatial_ratio, parameters.width // self.spatial_ratio)
        generator = self.noise_generator(parameters.seed)
        noise = torch.randn(1, CHANNELS, frames, *size, generator=generator, device=self.noise_device)
        return noise.to(self.device)

    def inputs(self, conditioning: Conditioning) -> AbstractContextManager[None]:
        if FIRST_FRAME not in conditioning:
            return contextlib.nullcontext()
        return first_frame_given(self.transformer, conditioning[FIRST_FRAME])

    def denoise(self, parameters: SampleParameters, conditioning: Conditioning, on_step: OnStep) -> Denoised:
        made = super().denoise(parameters, conditioning, on_step)
        if FIRST_FRAME in conditioning:
            made.latents[:, :, :1] = conditioning[FIRST_FRAME].to(made.latents)
        return made


@contextlib.contextmanager
def first_frame_given(transformer: nn.Module, latents: torch.Tensor) -> Iterator[None]:
    """Inside, each call of `transformer` sees `latents` [1, 48, 1, h, w] as its first frame, without noise."""

    def give(
        _module: nn.Module, args: tuple[Any, ...], inputs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        noisy, times = inputs["hidden_states"], inputs["timestep"].clone()
        times[:, : times.shape[1] // noisy.shape[2]] = 0
        first = torch.cat([latents.to(noisy), noisy[:, :, 1:]], dim=2)
        return args, {**inputs, "hidden_states": first, "timestep": times}

    hook = transformer.register_forward_pre_hook(give, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()
