"""Qwen-Image-Edit: pictures from pictures and words, in its three published models.

Facts are musubi-tuner 0.3.4's (qwen_image_train_network.py, `preprocess_control_image`): control images are brought to
about a megapixel for the VAE and to about 384 x 384 for the text encoder, whatever the sample's size; latents are the
posterior's mode. Without a control image the model samples as Qwen-Image does.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch

from rushes.errors import ModelError, PromptError
from rushes.families.parameters import SampleParameters
from rushes.families.rows.qwen import QWEN_IMAGE_EDIT
from rushes.families.spec import ArchitectureSpec
from rushes.wire.jobs import VaeOptions
from rushes_service.models.conditioning import Conditioning, ConditioningCache
from rushes_service.models.inputs.buckets import bucket
from rushes_service.models.inputs.images import fit, open_image, to_signed
from rushes_service.models.llm.qwen_edit import QwenEditText
from rushes_service.models.pictures import texts
from rushes_service.models.qwen.conditioned import CONTROL
from rushes_service.models.qwen.t2i import QwenImage
from rushes_service.models.vae.qwen import encode_qwen

VAE_AREA, TEXT_AREA = 1024 * 1024, 384 * 384
"""Pixels of a control image, as the VAE and as the text encoder see it."""

HUB_IDS = {
    "edit": "Qwen/Qwen-Image-Edit",
    "edit-2509": "Qwen/Qwen-Image-Edit-2509",
    "edit-2511": "Qwen/Qwen-Image-Edit-2511",
}
ZERO_TIME = "edit-2511"
"""The version whose control images are modulated as if there were no noise."""

FIELD = "control_image_path"


class QwenImageEdit(QwenImage):
    """qwen-image-edit. The pipeline is that of words alone: diffusers' own for editing would resize pictures anew."""

    spec: ClassVar[ArchitectureSpec] = QWEN_IMAGE_EDIT
    pipelines = ("QwenImageEditPipeline", "QwenImageEditPlusPipeline")
    text_class = QwenEditText

    @classmethod
    def check(cls, parameters: SampleParameters) -> None:
        super().check(parameters)
        for path in parameters.control_image_path:
            control_pixels(path, TEXT_AREA)

    def warnings(self, parameters: SampleParameters, vae: VaeOptions) -> tuple[str, ...]:
        warnings = super().warnings(parameters, vae)
        if len(parameters.control_image_path) > 1 and self.version == self.spec.versions[0]:
            warnings = (*warnings, "--ci: the text encoder of this version reads the first control image alone")
        return warnings

    def published_as(self) -> ArchitectureSpec:
        return replace(self.spec, hub_id=HUB_IDS[self.version])

    def transformer_options(self) -> dict[str, Any]:
        return {"zero_cond_t": self.version == ZERO_TIME}

    def check_config(self, config: Any) -> None:
        if config.use_layer3d_rope or config.use_additional_t_cond:
            super().check_config(config)
        if config.zero_cond_t != (self.version == ZERO_TIME):
            found = ZERO_TIME if config.zero_cond_t else "an elder version"
            raise ModelError(
                f"{self.source.place('transformer')} is Qwen-Image-Edit, {found}, but --model_version is {self.version}"
            )

    def image_key(self, text: str, pictures: list[np.ndarray]) -> dict[str, Any]:
        """Cache key of a text's embedding beside pictures, uint8 [H, W, 3] each."""
        seen = pictures[: 1 if self.version == self.spec.versions[0] else None]
        hashes = [hashlib.sha256(repr(each.shape).encode() + each.tobytes()).hexdigest() for each in seen]
        return {**self.text_key(text), "kind": f"qwen-image-{self.version}", "pictures": hashes}

    def encode(self, parameters: SampleParameters, cache: ConditioningCache) -> Conditioning:
        pictures = [control_pixels(path, TEXT_AREA) for path in parameters.control_image_path]
        numbered = self.version != self.spec.versions[0]
        found = {}
        with QwenEditText(self.source, self.device, self.dtype, self.encoders, float8=self.model.fp8_vl) as encoder:
            for name, text in texts(parameters).items():
                key = self.image_key(text, pictures) if pictures else self.text_key(text)
                made = cache.get(key, lambda text=text: encoder.encode(text, pictures, numbered=numbered))
                found[name] = made["embeds"].to(self.device, self.dtype)
        return found

    @torch.no_grad()
    def encode_images(self, parameters: SampleParameters, conditioning: Conditioning, vae: VaeOptions) -> Conditioning:
        found = dict(conditioning)
        for index, path in enumerate(parameters.control_image_path):
            pixels = to_signed(control_pixels(path, VAE_AREA))[None]
            found[CONTROL.format(index)] = encode_qwen(self.vae, pixels)
        return found


def control_pixels(path: str, area: int) -> np.ndarray:
    """A control image of about `area` pixels: uint8 [H, W, 3]. Scaled with its transparency, which is then dropped.

    Raises:
        PromptError: it cannot be read, or is too narrow.
    """
    image = open_image(path, FIELD, "RGBA")
    size = bucket(image.size, area)
    if size is None:
        raise PromptError(f"--ci {path} has {image.width} x {image.height} pixels: too narrow to be scaled", key=FIELD)
    return np.ascontiguousarray(fit(image, *size)[..., :3])
