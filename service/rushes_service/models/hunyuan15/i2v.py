"""hunyuan-video-1.5-i2v: a start image as latents in the first frame, and as SigLIP's tokens before the text."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch

from rushes.families.parameters import SampleParameters
from rushes.families.rows.hunyuan15 import HUNYUAN_VIDEO_15_I2V
from rushes.families.spec import ArchitectureSpec
from rushes.wire.jobs import VaeOptions
from rushes_service.models.conditioning import Conditioning, ConditioningCache
from rushes_service.models.encoders.siglip import IMAGE_PARTS, ImageEncoder, picture_digest
from rushes_service.models.hunyuan15.t2v import CONDITION, IMAGE, HunyuanVideo15
from rushes_service.models.hunyuan15.vae import encoded
from rushes_service.models.inputs.images import check_images, fit, open_image, to_signed
from rushes_service.runtime.devices import name_of

FIELD = "image_path"


class HunyuanVideo15ImageToVideo(HunyuanVideo15):
    """hunyuan-video-1.5-i2v."""

    spec: ClassVar[ArchitectureSpec] = HUNYUAN_VIDEO_15_I2V
    pipelines = ("HunyuanVideo15ImageToVideoPipeline",)

    @classmethod
    def check(cls, parameters: SampleParameters) -> None:
        super().check(parameters)
        check_images([str(parameters.image_path)], FIELD)

    def image_key(self, picture: np.ndarray) -> dict[str, Any]:
        """Cache key of the embedding of a picture, uint8 [H, W, 3]: `image` [1, n, 1152]."""
        files, dtype = self.fingerprint(IMAGE_PARTS), name_of(self.side_dtype)
        return {"kind": "siglip", "files": files, "dtype": dtype, "picture": picture_digest(picture)}

    def encode(self, parameters: SampleParameters, cache: ConditioningCache) -> Conditioning:
        picture = start_image(parameters)
        with ImageEncoder(self.source, self.device, self.side_dtype, self.encoders) as encoder:
            found = cache.get(self.image_key(picture), lambda: encoder.encode(picture))
        return {**super().encode(parameters, cache), IMAGE: found["image"].to(self.device, self.dtype)}

    def encode_images(self, parameters: SampleParameters, conditioning: Conditioning, vae: VaeOptions) -> Conditioning:
        _, channels, *size = self.latents_shape(parameters)
        condition = torch.zeros(1, channels + 1, *size, device=self.device)
        first = encoded(self.vae, to_signed(start_image(parameters))[None, :, None], vae)
        condition[:, :channels, :1] = first
        condition[:, channels:, :1] = 1.0  # the mask
        return {**conditioning, CONDITION: condition}


def start_image(parameters: SampleParameters) -> np.ndarray:
    """The start image at the size of the clip, uint8 [H, W, 3]."""
    return fit(open_image(str(parameters.image_path), FIELD), parameters.width, parameters.height)
