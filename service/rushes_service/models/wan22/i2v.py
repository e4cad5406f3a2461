"""wan2.2-i2v-a14b: a start image beside the noise, as latents alone; two experts as in `t2v`.

Facts are musubi-tuner 0.3.4's (wan_train_network.py): there is no CLIP, the trainers sample with the expert of `--dit`
alone at a guidance of 3.5, and an end image is not used.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from rushes.errors import ModelError
from rushes.families.parameters import SampleParameters
from rushes.families.rows.wan import WAN22_I2V_A14B
from rushes.families.spec import ArchitectureSpec
from rushes_service.models.conditioning import Conditioning, ConditioningCache
from rushes_service.models.wan.i2v import WanWithStartImage, first_frame_mask
from rushes_service.models.wan.inputs import LATENTS
from rushes_service.models.wan22.t2v import WanTwoExperts


class WanTwoExpertsFromImage(WanTwoExperts, WanWithStartImage):
    """wan2.2-i2v-a14b."""

    spec: ClassVar[ArchitectureSpec] = WAN22_I2V_A14B
    pipelines = ("WanImageToVideoPipeline",)
    in_channels = 36
    published_boundary = 0.9

    def check_config(self, name: str, config: Mapping[str, Any]) -> None:
        super().check_config(name, config)
        if config.get("image_dim") is not None:
            raise ModelError(
                f"{self.source.place(name)} has attention for image tokens: it is of Wan2.1 (Wan2.2's have none), "
                "which is sampled as wan2.1-i2v"
            )

    def encode(self, parameters: SampleParameters, cache: ConditioningCache) -> Conditioning:
        start = self.start_latents(parameters, parameters.frame_count, cache)
        given = {LATENTS: torch.cat([first_frame_mask(start), start], dim=1)}
        return {**super().encode(parameters, cache), **given}
