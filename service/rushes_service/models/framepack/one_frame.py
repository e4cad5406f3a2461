"""FramePack used to make one picture out of others: the model is shown control images at chosen places in time.

The start image (`--i`) gives its embedding only; what the picture is made from are the control images (`--ci`), which
may be partly transparent: where they are, the model is shown nothing.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import ClassVar

import numpy as np
import torch
from PIL import Image

from rushes.families.one_frame import OneFrame, parse_one_frame
from rushes.families.parameters import SampleParameters
from rushes.families.rows.framepack import FRAMEPACK_ONE_FRAME
from rushes.families.spec import ArchitectureSpec
from rushes.wire.jobs import VaeOptions
from rushes_service.models.base import Denoised, OnStep
from rushes_service.models.conditioning import Conditioning
from rushes_service.models.framepack.sections import HALF, QUARTER
from rushes_service.models.framepack.transformer import Frames, History
from rushes_service.models.framepack.video import FramePackModel, latents_shape
from rushes_service.models.inputs.images import open_image


class FramePackOneFrame(FramePackModel):
    """framepack-one-frame."""

    spec: ClassVar[ArchitectureSpec] = FRAMEPACK_ONE_FRAME

    def warnings(self, parameters: SampleParameters, vae: VaeOptions) -> tuple[str, ...]:
        options = parse_one_frame(parameters.one_frame)
        shown = max(len(parameters.control_image_path), 1) + (not options.no_post)
        extra = len(options.control_index) - shown
        ignored = f"--of control_index: the last {extra} of its indices are ignored, {shown} frames are shown"
        return (*super().warnings(parameters, vae), *([ignored] if extra > 0 else []))

    def encode_images(self, parameters: SampleParameters, conditioning: Conditioning, vae: VaeOptions) -> Conditioning:
        generator = self.generator(parameters)
        # Its latents are not looked at, but drawing them comes first in the reference's stream of random numbers.
        self.posterior_sample(open_image(parameters.image_path or "", "image_path"), parameters, vae, generator)
        controls = [open_image(path, "control_image_path", "RGBA") for path in parameters.control_image_path]
        latents = [
            self.posterior_sample(image, parameters, vae, generator) * opacity(image, parameters).to(self.device)
            for image in controls
        ]
        return {**conditioning, "controls": torch.cat(latents or [self.blank(1, parameters)], dim=2)}

    def denoise(self, parameters: SampleParameters, conditioning: Conditioning, on_step: OnStep) -> Denoised:
        options = parse_one_frame(parameters.one_frame)
        window, total = self.model.latent_window_size, parameters.sample_steps
        place = window if options.target_index is None else options.target_index
        noisy = Frames(self.noise(1, parameters, self.generator(parameters)), self.places(place, 1))
        history = self.history(conditioning["controls"], options, parameters)

        def step_ended(done: int, latents: torch.Tensor) -> None:
            on_step(done, total, latents)

        latents = self.sample(noisy, history, conditioning, parameters, step_ended)
        facts = {"target_index": place, "control_index": history.clean.places.tolist()}
        return Denoised(latents, {**facts, **self.facts(parameters, 1)})

    def history(self, controls: torch.Tensor, options: OneFrame, parameters: SampleParameters) -> History:
        """The control images where `options` place them, and blank frames where FramePack's own history would be."""
        after = self.model.latent_window_size + 1
        shown = controls if options.no_post else torch.cat([controls, self.blank(1, parameters)], dim=2)
        places = torch.zeros(shown.shape[2], dtype=torch.int64, device=self.device)
        if not options.no_post:
            places[-1] = after
        given = torch.tensor(options.control_index[: len(places)], dtype=torch.int64, device=self.device)
        places[: len(given)] = given
        half = Frames(self.blank(HALF, parameters), self.places(after + 1, HALF))
        quarter = Frames(self.blank(QUARTER, parameters), self.places(after + 1 + HALF, QUARTER))
        return History(Frames(shown, places), None if options.no_2x else half, None if options.no_4x else quarter)

    def blank(self, frames: int, parameters: SampleParameters) -> torch.Tensor:
        """Latents of nothing, [1, 16, frames, h, w]."""
        return torch.zeros(latents_shape(frames, parameters), device=self.device)

    def places(self, first: int, count: int) -> torch.Tensor:
        """`count` places in time from `first` on."""
        return torch.arange(first, first + count, device=self.device)

    def decode(self, latents: torch.Tensor, vae: VaeOptions) -> Generator[torch.Tensor, None, None]:
        yield (self.pixels(latents, vae)[0].float() / 2 + 0.5).clamp(0, 1)


def opacity(image: Image.Image, parameters: SampleParameters) -> torch.Tensor:
    """How much each latent of an RGBA image counts, [h, w] in 0..1; stretched, not cut, as in the reference."""
    size = (parameters.width // 8, parameters.height // 8)
    alpha = image.getchannel("A").resize(size, Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(alpha)).float() / 255.0
