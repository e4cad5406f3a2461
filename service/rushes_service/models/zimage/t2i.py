"""Z-Image, through diffusers' `ZImagePipeline`, with the reference sampler's schedule, noise and sequence.

Facts are musubi-tuner 0.3.4's (zimage_train_network.py, zimage/zimage_utils.py): noise levels are shifted in float64,
and neither text nor picture is padded to 32 tokens. diffusers pads both with learned tokens, which are attended to.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, ZImagePipeline, ZImageTransformer2DModel

from rushes.errors import PromptError
from rushes.families.parameters import SampleParameters
from rushes.families.rows.zimage import Z_IMAGE
from rushes.families.spec import ArchitectureSpec
from rushes.wire.jobs import VaeOptions
from rushes.wire.models import ModelSpec
from rushes_service.models.base import Denoised, OnStep, Sample
from rushes_service.models.conditioning import Conditioning
from rushes_service.models.llm.qwen3 import ZImageText
from rushes_service.models.pictures import NEGATIVE, TEXTS, PictureArchitecture, picture, step_callback
from rushes_service.models.vae.kl import SPATIAL_RATIO, decode_kl
from rushes_service.models.zimage.names import ORIGINAL_NAMES
from rushes_service.runtime.compat_diffusers_models import unpadded_z_image

LATENT_CHANNELS = 16

TURBO = "turbo"
"""In the name of the distilled model, which nothing else tells from the base."""

TURBO_STEPS = 8


class ReferenceScheduler(FlowMatchEulerDiscreteScheduler):
    """Euler over the reference's noise levels, which are shifted in float64 and rounded once."""

    def __init__(self, flow_shift: float = 1.0) -> None:
        super().__init__(shift=1.0)
        self.flow_shift = flow_shift

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: Any = None,
        sigmas: Any = None,
        mu: float | None = None,
        timesteps: Any = None,
    ) -> None:
        """Prepare a run of as many steps as `sigmas` has; neither they nor `mu` count otherwise."""
        self.num_inference_steps = len(sigmas)
        times = np.linspace(1000, 1, self.num_inference_steps + 1)[:-1] / 1000
        shifted = self.flow_shift * times / (1 + (self.flow_shift - 1) * times)
        self.sigmas = torch.from_numpy(np.append(shifted, 0.0)).to(device, torch.float32)
        self.timesteps = torch.from_numpy(shifted * self.config.num_train_timesteps).to(device, torch.float32)
        self.set_begin_index(0)


class ZImage(PictureArchitecture):
    """z-image."""

    spec: ClassVar[ArchitectureSpec] = Z_IMAGE

    blocks = ("layers", "noise_refiner", "context_refiner")
    text_axis = 0

    called = "Z-Image"
    pipelines = ("ZImagePipeline",)
    transformer_class, vae_class = ZImageTransformer2DModel, AutoencoderKL
    original_names = ORIGINAL_NAMES
    text_class, text_kind, text_float8 = ZImageText, "z-image", "fp8_llm"

    @classmethod
    def check(cls, parameters: SampleParameters) -> None:
        if not parameters.discrete_flow_shift:
            raise PromptError(
                "--fs 0 leaves nothing to denoise; Z-Image needs a flow shift above 0 (3 as trainers sample)",
                key="discrete_flow_shift",
            )

    def warnings(self, parameters: SampleParameters, vae: VaeOptions) -> tuple[str, ...]:
        warnings = super().warnings(parameters, vae)
        if parameters.use_cfg and is_turbo(self.model):
            guided = f"sampled with classifier-free guidance ({parameters.cfg_scale:g}) as trainers do by default"
            meant = f"--l 1 --s {TURBO_STEPS} is how it is meant to be sampled"
            warnings = (*warnings, f"Z-Image-Turbo is distilled, and {guided}: {meant}")
        return warnings

    def pipeline(self, **parts: Any) -> Any:
        return ZImagePipeline(tokenizer=None, text_encoder=None, scheduler=ReferenceScheduler(), **parts)

    def guides(self, parameters: SampleParameters, conditioning: Conditioning) -> bool:
        return parameters.use_cfg and parameters.cfg_scale > 0 and NEGATIVE in conditioning

    def guides_at_once(self, samples: Sequence[Sample]) -> bool:
        return False  # the pipeline always does so by itself

    def noise(self, parameters: SampleParameters) -> torch.Tensor:
        return initial_noise(parameters, self.noise_device)

    def denoise_all(self, samples: Sequence[Sample], on_step: OnStep, *, at_once: bool) -> Denoised:
        (parameters, first), *_ = samples
        scheduler = self._pipe.scheduler = ReferenceScheduler(parameters.discrete_flow_shift or 1.0)
        total = parameters.sample_steps

        with unpadded_z_image():
            latents = self._pipe(
                # The transformer pads and masks texts itself.
                **{name: [conditioning[name] for _, conditioning in samples] for name in TEXTS if name in first},
                latents=self.noises(samples),
                width=parameters.width,
                height=parameters.height,
                num_inference_steps=total,
                # pos + scale * (pos - neg), in the pipeline as in the reference: the usual formula at scale + 1.
                guidance_scale=parameters.cfg_scale if parameters.use_cfg else 0.0,
                output_type="latent",
                return_dict=False,
                callback_on_step_end=step_callback(on_step, total),
            )[0]
        return Denoised(latents, self.facts(scheduler.sigmas))

    def decode(self, latents: torch.Tensor, vae: VaeOptions) -> Generator[torch.Tensor, None, None]:
        model = self.decoder
        latents = latents.to(model.device, model.dtype) / model.config.scaling_factor + model.config.shift_factor
        yield picture(decode_kl(model, latents, vae))


def is_turbo(model: ModelSpec) -> bool:
    """True if the transformer's name says that it is the distilled one."""
    return TURBO in (model.dit or model.model or "").lower()


def initial_noise(parameters: SampleParameters, device: torch.device) -> torch.Tensor:
    """Noise [1, 16, h, w] in float32, whatever the transformer's precision."""
    rows, columns = parameters.height // SPATIAL_RATIO, parameters.width // SPATIAL_RATIO
    generator = torch.Generator(device).manual_seed(parameters.seed)
    return torch.randn(1, LATENT_CHANNELS, rows, columns, generator=generator, device=device)
