"""wan2.1-i2v: a start image beside the noise, as latents and as CLIP tokens.

Facts are musubi-tuner 0.3.4's (wan_train_network.py): the VAE encodes the image followed by zeros (mid grey), a mask
says which frames are given, and both passes of guidance see the image.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from rushes.errors import ModelError
from rushes.families.parameters import SampleParameters
from rushes.families.rows.wan import WAN21_I2V
from rushes.families.spec import ArchitectureSpec
from rushes_service.models.conditioning import Conditioning, ConditioningCache
from rushes_service.models.encoders.clip_vision import ClipVision
from rushes_service.models.inputs.images import check_images, fit, open_image, picture_fingerprint, to_signed
from rushes_service.models.wan.inputs import IMAGE_TOKENS, LATENTS, encoded
from rushes_service.models.wan.t2v import Wan
from rushes_service.runtime.devices import name_of

FIELD, END_FIELD = "image_path", "end_image_path"
MASK_CHANNELS = 4
"""One per frame of a latent frame."""


class WanWithStartImage(Wan):
    """What Wan models share that take `--i`."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._vae_files: str | None = None

    @classmethod
    def check(cls, parameters: SampleParameters) -> None:
        super().check(parameters)
        if parameters.image_path is not None:
            check_images((parameters.image_path,), FIELD)
        if parameters.end_image_path is not None:
            check_images((parameters.end_image_path,), END_FIELD)

    def vae_key(self, kind: str, parameters: SampleParameters, **more: Any) -> dict[str, Any]:
        """Cache key of what the VAE makes of an input at the size of the clip: tensor `latents` [1, 16, T, h, w]."""
        if self._vae_files is None:
            self._vae_files = self.source.fingerprint(("vae",))
        size = [parameters.width, parameters.height]
        return {"kind": kind, "files": self._vae_files, "dtype": name_of(self.vae_dtype), "size": size, **more}

    def picture_latents(
        self,
        parameters: SampleParameters,
        pictures: Mapping[int, tuple[str, str]],
        frames: int,
        cache: ConditioningCache,
    ) -> torch.Tensor:
        """Latents [1, 16, T, h, w] of a clip of `frames` frames that is grey but for some pictures.

        Args:
            pictures: by frame, the path and the field of the prompt that names it.
        """

        def compute() -> Conditioning:
            clip = torch.zeros(3, frames, parameters.height, parameters.width)
            for frame, (path, field) in pictures.items():
                clip[:, frame] = to_signed(fit(open_image(path, field), parameters.width, parameters.height))
            return {"latents": encoded(self.vae, clip)}

        shown = {str(frame): picture_fingerprint(path) for frame, (path, _) in pictures.items()}
        key = self.vae_key("wan-pictures", parameters, frames=frames, pictures=shown)
        return cache.get(key, compute)["latents"].to(self.device)

    def start_latents(self, parameters: SampleParameters, frames: int, cache: ConditioningCache) -> torch.Tensor:
        """Latents [1, 16, T, h, w] of the start image followed by zeros, `frames` frames in all."""
        return self.picture_latents(parameters, {0: (str(parameters.image_path), FIELD)}, frames, cache)


class WanWithImageTokens(WanWithStartImage):
    """What Wan2.1 models share whose transformers see CLIP's tokens of the start image."""

    end_image: ClassVar[bool | None] = False
    """True for models that see CLIP's tokens of a first and a last picture (FLF2V), None for a family of both kinds."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._clip_files: str | None = None

    def check_config(self, name: str, config: Mapping[str, Any]) -> None:
        super().check_config(name, config)
        if config.get("image_dim") is None:
            raise ModelError(
                f"{self.source.place(name)} has no attention for image tokens: it is not of Wan2.1 (Wan2.2's have none)"
            )
        sees_two = config.get("pos_embed_seq_len") is not None
        if self.end_image is not None and sees_two != self.end_image:
            kind, other = ("first and last frame", "wan2.1-flf2v") if sees_two else ("start image", "wan2.1-i2v")
            raise ModelError(f"{self.source.place(name)} is a model for a {kind}: sample it as {other}")

    def image_key(self, image: str) -> dict[str, Any]:
        """Cache key of an image's tokens: tensor `image_embeds` [1, 257, image_dim]."""
        if self._clip_files is None:
            self._clip_files = self.source.fingerprint(ClipVision.parts)
        return {"kind": "clip-vision", "files": self._clip_files, "image": picture_fingerprint(image)}

    def tokens(self, image: str, cache: ConditioningCache, field: str = FIELD) -> torch.Tensor:
        """CLIP's tokens [1, 257, image_dim] of the picture at `image`, which `field` of the prompt names."""

        with ClipVision(self.source, self.device, self.encoders) as encoder:
            key = self.image_key(image)
            found = cache.get(key, lambda: {IMAGE_TOKENS: encoder.encode(open_image(image, field))})
        return found[IMAGE_TOKENS].to(self.device)

    def both_tokens(self, parameters: SampleParameters, cache: ConditioningCache) -> torch.Tensor:
        """CLIP's tokens [2, 257, image_dim] of the start and the end image."""
        start = self.tokens(str(parameters.image_path), cache)
        return torch.cat([start, self.tokens(str(parameters.end_image_path), cache, END_FIELD)])


class WanImageToVideo(WanWithImageTokens):
    """wan2.1-i2v."""

    spec: ClassVar[ArchitectureSpec] = WAN21_I2V
    pipelines = ("WanImageToVideoPipeline",)
    in_channels = 36

    def encode(self, parameters: SampleParameters, cache: ConditioningCache) -> Conditioning:
        start = self.start_latents(parameters, parameters.frame_count, cache)
        given = {LATENTS: torch.cat([first_frame_mask(start), start], dim=1)}
        tokens = {IMAGE_TOKENS: self.tokens(str(parameters.image_path), cache)}
        return {**super().encode(parameters, cache), **tokens, **given}


def first_frame_mask(latents: torch.Tensor) -> torch.Tensor:
    """1 where a frame is given, 0 where it is to be made: [1, 4, T, h, w] for `latents` [1, 16, T, h, w]."""
    mask = latents.new_zeros(1, MASK_CHANNELS, *latents.shape[2:])
    mask[:, :, 0] = 1
    return mask
