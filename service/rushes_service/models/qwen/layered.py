"""Qwen-Image-Layered: a picture taken apart into layers with transparency, below each other in one file.

Facts are musubi-tuner 0.3.4's (qwen_image_train_network.py): `--f N` makes N + 1 layers, all of them denoised together;
the picture is brought to the sample's size and shown with its transparency, its latents are the posterior's mode.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from contextlib import AbstractContextManager
from typing import Any, ClassVar

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from rushes.errors import ModelError, PromptError
from rushes.families.parameters import SampleParameters
from rushes.families.rows.qwen import QWEN_IMAGE_LAYERED
from rushes.families.spec import ArchitectureSpec
from rushes.wire.jobs import VaeOptions
from rushes_service.models.conditioning import Conditioning
from rushes_service.models.inputs.images import check_images, fit, open_image, to_signed
from rushes_service.models.qwen.conditioned import CONTROL, control_latents, shown
from rushes_service.models.qwen.t2i import LAST_SIGMA, QwenImage, grid
from rushes_service.models.vae.qwen import SPATIAL_RATIO, decode_qwen, encode_qwen
from rushes_service.models.vae.tiles import plan_tiles

TOKENS_OF_NO_SHIFT = 256
"""Tokens of all layers at which the shift that grows with them is e."""

FIELD = "control_image_path"
CHANNELS = 4


class GrowingShift(FlowMatchEulerDiscreteScheduler):
    """A schedule whose shift grows with the square root of the tokens, whatever the pipeline says."""

    own_mu = 1.0

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: Any = None,
        sigmas: Any = None,
        mu: float | None = None,
        timesteps: Any = None,
    ) -> None:
        """As in diffusers, with `own_mu` for `mu`."""
        super().set_timesteps(num_inference_steps, device, sigmas, self.own_mu, timesteps)


class QwenImageLayered(QwenImage):
    """qwen-image-layered."""

    spec: ClassVar[ArchitectureSpec] = QWEN_IMAGE_LAYERED
    pipelines = ("QwenImageLayeredPipeline",)

    @classmethod
    def check(cls, parameters: SampleParameters) -> None:
        super().check(parameters)
        check_images(parameters.control_image_path, FIELD)
        if not parameters.prompt.strip():
            raise PromptError(f"{cls.spec.name} needs a text that describes the picture", key="prompt")

    def transformer_options(self) -> dict[str, Any]:
        return {"use_layer3d_rope": True, "use_additional_t_cond": True}

    def check_config(self, config: Any) -> None:
        if not (config.use_layer3d_rope and config.use_additional_t_cond):
            raise ModelError(f"{self.source.place('transformer')} is no Qwen-Image-Layered: it makes opaque pictures")

    def load(self) -> None:
        super().load()
        if (found := self.vae.config.input_channels) != CHANNELS:
            own = f"Qwen-Image-Layered has one of its own, of {CHANNELS}"
            raise ModelError(f"{self.source.place('vae')} is a VAE of {found} channels; {own}")

    @torch.no_grad()
    def encode_images(self, parameters: SampleParameters, conditioning: Conditioning, vae: VaeOptions) -> Conditioning:
        (path,) = parameters.control_image_path
        picture = fit(open_image(path, FIELD, "RGBA"), parameters.width, parameters.height)
        pixels = to_signed(np.ascontiguousarray(picture))[None]
        return {**conditioning, CONTROL.format(0): encode_qwen(self.vae, pixels)}

    def schedule(self, parameters: SampleParameters) -> FlowMatchEulerDiscreteScheduler:
        if parameters.discrete_flow_shift is not None:
            return super().schedule(parameters)
        scheduler = GrowingShift(use_dynamic_shifting=True, shift_terminal=LAST_SIGMA)
        _, rows, columns = grid(parameters)
        scheduler.own_mu = math.sqrt((parameters.layers or 1) * rows * columns / TOKENS_OF_NO_SHIFT)
        return scheduler

    def shown(self, parameters: SampleParameters, conditioning: Conditioning) -> AbstractContextManager[None]:
        made = [grid(parameters)] * (parameters.layers or 1)
        kind = torch.zeros(1, dtype=torch.long, device=self.device)  # of condition: RGBA
        return shown(self.transformer, made, control_latents(conditioning), additional_t_cond=kind)

    def decode(self, latents: torch.Tensor, vae: VaeOptions) -> Generator[torch.Tensor, None, None]:
        height, width = (SPATIAL_RATIO * size for size in latents.shape[-2:])
        tiles = plan_tiles(vae, width, height)
        layers = [decode_qwen(self.decoder, layer, tiles).float()[0] for layer in latents.split(1)]
        yield (torch.cat(layers, dim=1)[:, None] / 2 + 0.5).clamp(0, 1)
