"""wan-one-frame: an image-to-video model that makes one picture out of others, placed in time.

Facts are musubi-tuner 0.3.4's (wan_train_network.py with `--one_frame`): each control image and the picture are one
latent frame, at the places that `--of` names. Control images are given with mask 1, the picture as grey with mask 0.
All frames are denoised, the picture's is decoded. With a first and last frame model the reference's attention takes
the first 257 of the 514 image tokens for image tokens, and the last picture's for text.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack
from typing import ClassVar

import torch

from rushes.errors import PromptError
from rushes.families.one_frame import Places, place_frames
from rushes.families.parameters import SampleParameters
from rushes.families.rows.wan import WAN_ONE_FRAME
from rushes.families.spec import ArchitectureSpec
from rushes.wire.jobs import VaeOptions
from rushes_service.models.base import Denoised, OnStep
from rushes_service.models.conditioning import Conditioning, ConditioningCache
from rushes_service.models.inputs.images import check_images
from rushes_service.models.wan.i2v import END_FIELD, MASK_CHANNELS, WanWithImageTokens
from rushes_service.models.wan.inputs import IMAGE_TOKENS, LATENTS, PLACES, first_tokens_as_image, placed
from rushes_service.models.wan.t2v import initial_noise

CONTROL_FIELD = "control_image_path"


class WanOneFrame(WanWithImageTokens):
    """wan-one-frame."""

    spec: ClassVar[ArchitectureSpec] = WAN_ONE_FRAME
    pipelines = ("WanImageToVideoPipeline",)
    in_channels = 36
    end_image = None

    @classmethod
    def check(cls, parameters: SampleParameters) -> None:
        super().check(parameters)
        check_images(parameters.control_image_path[: len(places_of(parameters).frames) - 1], CONTROL_FIELD)

    def warnings(self, parameters: SampleParameters, vae: VaeOptions) -> tuple[str, ...]:
        return (*super().warnings(parameters, vae), *places_of(parameters).warnings)

    @property
    def sees_two(self) -> bool:
        """True if the loaded model sees the tokens of a first and a last picture."""
        return self._pipe.transformer.config.pos_embed_seq_len is not None  # type: ignore[no-any-return]

    def encode(self, parameters: SampleParameters, cache: ConditioningCache) -> Conditioning:
        places = places_of(parameters)
        self.check_end_image(parameters)
        tokens = self.both_tokens if self.sees_two else self.start_tokens
        return {
            **super().encode(parameters, cache),
            IMAGE_TOKENS: tokens(parameters, cache),
            LATENTS: self.frames(parameters, places, cache),
            PLACES: torch.tensor(places.frames, device=self.device),
        }

    def start_tokens(self, parameters: SampleParameters, cache: ConditioningCache) -> torch.Tensor:
        """CLIP's tokens [1, 257, image_dim] of the start image."""
        return self.tokens(str(parameters.image_path), cache)

    def check_end_image(self, parameters: SampleParameters) -> None:
        """Raise `PromptError` unless `--ei` is given just where the model sees an end image."""
        if self.sees_two and parameters.end_image_path is None:
            raise PromptError("this is a first and last frame model: it needs --ei, the last picture", key=END_FIELD)
        if not self.sees_two and parameters.end_image_path is not None:
            raise PromptError("--ei is for first and last frame models (FLF2V): leave it out", key=END_FIELD)

    def frames(self, parameters: SampleParameters, places: Places, cache: ConditioningCache) -> torch.Tensor:
        """Mask and latents [1, 4 + 16, T, h, w] of the control images, and of grey where the picture goes."""
        controls = iter(parameters.control_image_path)
        parts = []
        for position in range(len(places.frames)):
            shown = {} if position == places.target else {0: (next(controls), CONTROL_FIELD)}
            latents = self.picture_latents(parameters, shown, 1, cache)
            mask = latents.new_full((1, MASK_CHANNELS, *latents.shape[2:]), float(bool(shown)))
            parts.append(torch.cat([mask, latents], dim=1))
        return torch.cat(parts, dim=2)

    def token_count(self, parameters: SampleParameters, conditioning: Conditioning) -> int:
        return len(conditioning[PLACES]) * super().token_count(parameters, conditioning)

    def noise(self, parameters: SampleParameters, conditioning: Conditioning) -> torch.Tensor:
        return initial_noise(parameters, self.noise_device, len(conditioning[PLACES])).to(self.device)

    def inputs(self, conditioning: Conditioning) -> AbstractContextManager[None]:
        with ExitStack() as stack:
            if self.sees_two:
                stack.enter_context(first_tokens_as_image(self._pipe.transformer))
            stack.enter_context(placed(self._pipe.transformer, conditioning[PLACES]))
            stack.enter_context(super().inputs(conditioning))
            return stack.pop_all()

    def denoise(self, parameters: SampleParameters, conditioning: Conditioning, on_step: OnStep) -> Denoised:
        places = places_of(parameters)
        made = super().denoise(parameters, conditioning, on_step)
        picture = made.latents[:, :, places.target : places.target + 1]
        control = [place for place in places.frames if place != places.frames[places.target]]
        return Denoised(picture, {**made.facts, "target_index": places.frames[places.target], "control_index": control})


def places_of(parameters: SampleParameters) -> Places:
    """Where the frames of a sample are."""
    return place_frames(parameters.one_frame, len(parameters.control_image_path))
