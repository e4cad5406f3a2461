"""wan2.1-flf2v: a clip between a first and a last picture.

musubi-tuner 0.3.4 cannot sample this model as a clip. Facts are those of diffusers' `WanImageToVideoPipeline` with
`last_image`: both pictures are encoded in one clip with grey between them, the mask marks the first and the last
frame, and CLIP's tokens of both pictures are seen.
"""

from __future__ import annotations

from typing import ClassVar

import torch

from rushes.families.parameters import SampleParameters
from rushes.families.rows.wan import WAN21_FLF2V
from rushes.families.spec import ArchitectureSpec
from rushes_service.models.conditioning import Conditioning, ConditioningCache
from rushes_service.models.wan.i2v import END_FIELD, FIELD, WanWithImageTokens, first_frame_mask
from rushes_service.models.wan.inputs import IMAGE_TOKENS, LATENTS


class WanFirstLastFrame(WanWithImageTokens):
    """wan2.1-flf2v."""

    spec: ClassVar[ArchitectureSpec] = WAN21_FLF2V
    pipelines = ("WanImageToVideoPipeline",)
    in_channels = 36
    end_image = True

    def encode(self, parameters: SampleParameters, cache: ConditioningCache) -> Conditioning:
        frames = parameters.frame_count
        pictures = {0: (str(parameters.image_path), FIELD), frames - 1: (str(parameters.end_image_path), END_FIELD)}
        latents = self.picture_latents(parameters, pictures, frames, cache)
        mask = first_frame_mask(latents)
        mask[:, -1, -1] = 1  # of the four frames of a latent frame the last
        tokens = {IMAGE_TOKENS: self.both_tokens(parameters, cache)}
        return {**super().encode(parameters, cache), **tokens, LATENTS: torch.cat([mask, latents], dim=1)}
