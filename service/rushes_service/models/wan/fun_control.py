"""wan2.1-fun-control: a control video beside the noise, with or without a start image.

Facts are musubi-tuner 0.3.4's (wan_train_network.py): 16 channels of control latents, then 16 of the start image in
the first latent frame and zeros elsewhere; no mask.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack
from typing import ClassVar

import numpy as np
import torch

from rushes.families.parameters import SampleParameters
from rushes.families.rows.wan import WAN21_FUN_CONTROL
from rushes.families.spec import ArchitectureSpec
from rushes_service.models.conditioning import Conditioning, ConditioningCache
from rushes_service.models.inputs.control import control_files, control_frames
from rushes_service.models.inputs.images import picture_fingerprint, to_signed
from rushes_service.models.wan.i2v import WanWithImageTokens
from rushes_service.models.wan.inputs import IMAGE_TOKENS, LATENTS, encoded, first_tokens_as_image


class WanFunControl(WanWithImageTokens):
    """wan2.1-fun-control."""

    spec: ClassVar[ArchitectureSpec] = WAN21_FUN_CONTROL
    pipelines = ("WanImageToVideoPipeline", "WanPipeline")
    in_channels = 48

    @classmethod
    def check(cls, parameters: SampleParameters) -> None:
        super().check(parameters)
        frames_of(parameters)

    def encode(self, parameters: SampleParameters, cache: ConditioningCache) -> Conditioning:
        control = self.control_latents(parameters, cache)
        start, tokens = torch.zeros_like(control), Conditioning()
        if parameters.image_path is not None:
            # One frame is enough: the VAE is causal, and only the first latent frame is kept.
            start[:, :, :1] = self.start_latents(parameters, 1, cache)
            tokens = {IMAGE_TOKENS: self.tokens(parameters.image_path, cache)}
        return {**super().encode(parameters, cache), **tokens, LATENTS: torch.cat([control, start], dim=1)}

    def control_latents(self, parameters: SampleParameters, cache: ConditioningCache) -> torch.Tensor:
        """Latents [1, 16, T, h, w] of the control video."""
        files = control_files(str(parameters.control_video_path), parameters.frame_count)
        hashes = [picture_fingerprint(file) for file in files]
        key = self.vae_key("wan-control", parameters, frames=parameters.frame_count, control=hashes)
        found = cache.get(key, lambda: {"latents": encoded(self.vae, to_signed(frames_of(parameters)))})
        return found["latents"].to(self.device)

    def inputs(self, conditioning: Conditioning) -> AbstractContextManager[None]:
        with ExitStack() as stack:
            if IMAGE_TOKENS not in conditioning:
                stack.enter_context(first_tokens_as_image(self._pipe.transformer))
            stack.enter_context(super().inputs(conditioning))
            return stack.pop_all()


def frames_of(parameters: SampleParameters) -> np.ndarray:
    """The control clip of a sample, uint8 [frames, height, width, 3]; raises as `control_frames`."""
    return control_frames(
        str(parameters.control_video_path), parameters.frame_count, parameters.width, parameters.height
    )
