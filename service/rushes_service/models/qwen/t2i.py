"""Qwen-Image, through diffusers' `QwenImagePipeline`, with the reference sampler's schedule and noise.

Facts are musubi-tuner 0.3.4's (qwen_image_train_network.py, qwen_image/qwen_image_utils.py): the shift of the schedule
is fixed unless a prompt file says null, the last noise level is 0.02 whatever the shift, and noise is drawn in the
transformer's precision.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar

import numpy as np
import torch
from diffusers import (
    AutoencoderKLQwenImage,
    FlowMatchEulerDiscreteScheduler,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
)

from rushes.errors import ModelError, PromptError
from rushes.families.parameters import SampleParameters
from rushes.families.rows.qwen import QWEN_IMAGE
from rushes.families.spec import ArchitectureSpec
from rushes.wire.jobs import VaeOptions
from rushes_service.models.base import Denoised, OnStep, Sample
from rushes_service.models.conditioning import Conditioning
from rushes_service.models.llm.qwen_vl import QwenImageText
from rushes_service.models.pictures import NEGATIVE, PATCH, PictureArchitecture, picture, step_callback
from rushes_service.models.qwen.conditioned import Grid, control_latents, packed, shown
from rushes_service.models.vae.qwen import LATENT_CHANNELS, SPATIAL_RATIO, decode_qwen
from rushes_service.models.vae.tiles import TilePlan, plan_tiles

LAST_SIGMA = 0.02
"""Noise level that the last step starts from, whatever the shift."""

SHIFT_AT_256_TOKENS, SHIFT_AT_8192_TOKENS = 0.5, 0.9
"""`mu` of the shift that grows with the picture, linear in its number of tokens and not clamped."""


class QwenImage(PictureArchitecture):
    """What all of Qwen-Image share; a subclass says what its pipeline is called and what else conditions it."""

    called = "Qwen-Image"
    transformer_class, vae_class = QwenImageTransformer2DModel, AutoencoderKLQwenImage
    text_class, text_kind, text_float8 = QwenImageText, "qwen-image", "fp8_vl"

    blocks = ("transformer_blocks",)
    text_mask = "encoder_hidden_states_mask"

    @classmethod
    def check(cls, parameters: SampleParameters) -> None:
        if parameters.discrete_flow_shift == 0:
            raise PromptError(
                f"--fs 0 leaves nothing to denoise; {cls.spec.name} needs a flow shift above 0 (2.2 is close to how "
                'the model is published; in a .json file "discrete_flow_shift": null makes it grow with the picture)',
                key="discrete_flow_shift",
            )
        if parameters.sample_steps == 1:
            raise PromptError(
                f"--s 1 cannot be sampled: {cls.spec.name}'s last step starts from a noise level of {LAST_SIGMA}, its "
                "first from 1, so it takes two at least",
                key="sample_steps",
            )

    def plan_tiles(self, vae: VaeOptions, width: int, height: int) -> TilePlan | None:
        return plan_tiles(vae, width, height)

    def check_config(self, config: Any) -> None:
        if config.use_layer3d_rope or config.use_additional_t_cond:
            raise ModelError(
                f"{self.source.place('transformer')} is Qwen-Image-Layered: say --architecture qwen-image-layered"
            )
        if config.zero_cond_t:
            raise ModelError(
                f"{self.source.place('transformer')} is Qwen-Image-Edit-2511: say --architecture qwen-image-edit "
                "--model_version edit-2511"
            )

    def pipeline(self, **parts: Any) -> Any:
        return QwenImagePipeline(
            tokenizer=None, text_encoder=None, scheduler=FlowMatchEulerDiscreteScheduler(), **parts
        )

    def guides(self, parameters: SampleParameters, conditioning: Conditioning) -> bool:
        return parameters.cfg_scale > 1 and NEGATIVE in conditioning

    def shown_tokens(self, conditioning: Conditioning) -> int:
        return sum(packed(latents[:, :, 0]).shape[1] for latents in control_latents(conditioning))

    def denoise_all(self, samples: Sequence[Sample], on_step: OnStep, *, at_once: bool) -> Denoised:
        (parameters, conditioning), *_ = samples
        scheduler = self._pipe.scheduler = self.schedule(parameters)
        total = parameters.sample_steps

        texts = self.padded_texts(samples, at_once=at_once)
        with self.guided(texts, at_once=at_once), self.shown(parameters, conditioning):
            tokens = self._pipe(
                **texts,
                latents=self.noises(samples),
                width=parameters.width,
                height=parameters.height,
                sigmas=unshifted(total),
                num_inference_steps=total,
                true_cfg_scale=parameters.cfg_scale,
                output_type="latent",
                return_dict=False,
                callback_on_step_end=step_callback(on_step, total),
            )[0]
        return Denoised(unpacked(tokens, parameters), self.facts(scheduler.sigmas))

    def schedule(self, parameters: SampleParameters) -> FlowMatchEulerDiscreteScheduler:
        """The scheduler of a sample."""
        return schedule(parameters)

    def noise(self, parameters: SampleParameters) -> torch.Tensor:
        return initial_noise(parameters, self.noise_device, self.dtype)

    def shown(self, parameters: SampleParameters, conditioning: Conditioning) -> AbstractContextManager[None]:
        """Inside, the transformer sees the control images."""
        return shown(self.transformer, [grid(parameters)], control_latents(conditioning))

    def decode(self, latents: torch.Tensor, vae: VaeOptions) -> Generator[torch.Tensor, None, None]:
        height, width = (SPATIAL_RATIO * size for size in latents.shape[-2:])
        yield picture(decode_qwen(self.decoder, latents, plan_tiles(vae, width, height)))


class QwenTextToImage(QwenImage):
    """qwen-image."""

    spec: ClassVar[ArchitectureSpec] = QWEN_IMAGE
    pipelines = ("QwenImagePipeline",)


def unshifted(steps: int) -> np.ndarray:
    """Noise levels [steps] before the shift, as the reference hands them to its scheduler."""
    return np.linspace(1.0, 1 / steps, steps)


def schedule(parameters: SampleParameters) -> FlowMatchEulerDiscreteScheduler:
    """The scheduler of a sample."""
    shift = parameters.discrete_flow_shift
    return FlowMatchEulerDiscreteScheduler(
        shift=shift or 1.0,
        shift_terminal=LAST_SIGMA,
        use_dynamic_shifting=shift is None,
        base_image_seq_len=256,
        max_image_seq_len=8192,
        base_shift=SHIFT_AT_256_TOKENS,
        max_shift=SHIFT_AT_8192_TOKENS,
    )


def initial_noise(parameters: SampleParameters, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """Noise [1, tokens, 64] in `dtype`, drawn as latents [1, layers, 16, h, w] in that very precision."""
    rows, columns = parameters.height // SPATIAL_RATIO, parameters.width // SPATIAL_RATIO
    generator = torch.Generator(device).manual_seed(parameters.seed)
    shape = (1, parameters.layers or 1, LATENT_CHANNELS, rows, columns)
    drawn = torch.randn(shape, generator=generator, device=device, dtype=dtype)
    return torch.cat([packed(layer) for layer in drawn.unbind(1)], dim=1)


def grid(parameters: SampleParameters) -> Grid:
    """Frames, rows and columns of the sample's tokens."""
    return 1, parameters.height // PATCH, parameters.width // PATCH


def unpacked(tokens: torch.Tensor, parameters: SampleParameters) -> torch.Tensor:
    """Tokens [n, layers h w, 64] as latents [n layers, 16, 1, 2h, 2w] in float32."""
    rows, columns = parameters.height // PATCH, parameters.width // PATCH
    parts = tokens.float().view(-1, rows, columns, LATENT_CHANNELS, 2, 2)
    return parts.permute(0, 3, 1, 4, 2, 5).reshape(-1, LATENT_CHANNELS, 1, 2 * rows, 2 * columns)
