"""FLUX.1 Kontext, through diffusers' `FluxKontextPipeline`, with the reference sampler's schedule, noise and pictures.

Facts are musubi-tuner 0.3.4's (flux_kontext_train_network.py, flux_utils.py): a control image is cut at its right and
bottom to multiples of 16 pixels and never resized, its latents are a draw from the VAE's posterior, and `--fs 0`
selects the shift that grows with the picture.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxKontextPipeline, FluxTransformer2DModel

from rushes.errors import PromptError
from rushes.families.parameters import SampleParameters
from rushes.families.rows.flux import FLUX1_KONTEXT
from rushes.families.spec import ArchitectureSpec
from rushes.wire.jobs import VaeOptions
from rushes_service.models.base import Denoised, OnStep, Sample
from rushes_service.models.batching import stacked
from rushes_service.models.conditioning import Conditioning, ConditioningCache
from rushes_service.models.encoders.t5_clip import TextEncoders
from rushes_service.models.euler import ReferenceEuler, timed_by
from rushes_service.models.flux.names import ORIGINAL_NAMES
from rushes_service.models.inputs.images import open_image, to_signed
from rushes_service.models.pictures import PATCH, PROMPT, PictureArchitecture, picture, step_callback
from rushes_service.models.vae.kl import decode_kl
from rushes_service.runtime.compat_diffusers_models import KEEP_SIZE
from rushes_service.runtime.float8 import precision

TOKEN_CHANNELS = 64
"""Of a packed token: 16 latent channels of 2 x 2."""

SHIFT_AT_256_TOKENS, SHIFT_AT_4096_TOKENS = 0.5, 1.15
"""`mu` of the shift that grows with the picture, linear in its number of tokens."""


class FluxKontext(PictureArchitecture):
    """flux1-kontext."""

    spec: ClassVar[ArchitectureSpec] = FLUX1_KONTEXT

    called = "FLUX"
    pipelines = ("FluxKontextPipeline",)
    transformer_class, vae_class = FluxTransformer2DModel, AutoencoderKL
    original_names = ORIGINAL_NAMES
    own_inputs = frozenset({PROMPT, "pooled_prompt_embeds"})

    @classmethod
    def check(cls, parameters: SampleParameters) -> None:
        for path in parameters.control_image_path:
            control_pixels(path)

    def pipeline(self, **parts: Any) -> Any:
        encoders = dict.fromkeys(TextEncoders.parts)
        return FluxKontextPipeline(scheduler=FlowMatchEulerDiscreteScheduler(), **parts, **encoders)

    def text_key(self, text: str) -> dict[str, Any]:
        """Cache key of a text's embeddings, see `TextEncoders.encode`."""
        dtype = precision(self.dtype, float8=self.model.fp8_t5)
        return {"kind": "t5+clip", "files": self.text_files(TextEncoders.parts), "dtype": dtype, "text": text}

    def encode(self, parameters: SampleParameters, cache: ConditioningCache) -> Conditioning:
        with TextEncoders(self.source, self.device, self.dtype, self.encoders, float8=self.model.fp8_t5) as encoders:
            found = cache.get(self.text_key(parameters.prompt), lambda: encoders.encode(parameters.prompt))
        return {name: tensor.to(self.device, self.dtype) for name, tensor in found.items()}

    @torch.no_grad()
    def encode_images(self, parameters: SampleParameters, conditioning: Conditioning, vae: VaeOptions) -> Conditioning:
        if not parameters.control_image_path:
            return conditioning
        coder = self.vae
        pixels = control_pixels(parameters.control_image_path[0]).to(self.device, coder.dtype)
        # The reference draws the posterior and the noise with generators of the same seed.
        drawn = coder.encode(pixels).latent_dist.sample(self.noise_generator(parameters.seed))
        latents = (drawn - coder.config.shift_factor) * coder.config.scaling_factor
        # 16 channels tell the pipeline that these are latents already.
        return {**conditioning, "image": latents}

    def uses_masks(self, conditioning: Conditioning) -> bool:
        return False

    def noise(self, parameters: SampleParameters) -> torch.Tensor:
        return initial_noise(parameters, self.noise_device)

    def denoise_all(self, samples: Sequence[Sample], on_step: OnStep, *, at_once: bool) -> Denoised:
        (parameters, _), *_ = samples
        scheduler = self._pipe.scheduler = ReferenceEuler(shift=1.0)
        sigmas = schedule(parameters)
        total = parameters.sample_steps

        with timed_by(self.transformer, scheduler):
            packed = self._pipe(
                **stacked(samples),
                latents=self.noises(samples),
                width=parameters.width,
                height=parameters.height,
                max_area=parameters.width * parameters.height,
                **KEEP_SIZE,
                sigmas=sigmas[:-1].tolist(),
                num_inference_steps=total,
                guidance_scale=parameters.guidance_scale,
                output_type="latent",
                return_dict=False,
                callback_on_step_end=step_callback(on_step, total),
            )[0]
        return Denoised(unpacked(packed, parameters), self.facts(sigmas))

    def decode(self, latents: torch.Tensor, vae: VaeOptions) -> Generator[torch.Tensor, None, None]:
        model = self.decoder
        latents = latents.to(model.device, model.dtype) / model.config.scaling_factor + model.config.shift_factor
        yield picture(decode_kl(model, latents, vae))


def control_pixels(path: str) -> torch.Tensor:
    """A control image [1, 3, H, W] in -1..1, cut at its right and bottom to multiples of 16 pixels.

    Raises:
        PromptError: it cannot be read, or is smaller than 16 pixels.
    """
    image = open_image(path, "control_image_path")
    width, height = (size // PATCH * PATCH for size in image.size)
    if not width or not height:
        raise PromptError(
            f"--ci {path} has {image.width} x {image.height} pixels; FLUX needs {PATCH} x {PATCH} at least",
            key="control_image_path",
        )
    return to_signed(np.array(image.crop((0, 0, width, height))))[None]


def schedule(parameters: SampleParameters) -> torch.Tensor:
    """Noise levels [steps + 1] from 1 to 0 in float32, bit for bit the reference's."""
    times = torch.linspace(1, 0, parameters.sample_steps + 1)
    if shift := parameters.discrete_flow_shift:
        return shift * times / (1 + (shift - 1) * times)
    tokens = (parameters.width // PATCH) * (parameters.height // PATCH)
    slope = (SHIFT_AT_4096_TOKENS - SHIFT_AT_256_TOKENS) / (4096 - 256)
    grown = math.exp(slope * tokens + SHIFT_AT_256_TOKENS - slope * 256)
    return grown / (grown + (1 / times - 1))


def initial_noise(parameters: SampleParameters, device: torch.device) -> torch.Tensor:
    """Noise [1, tokens, 64] in float32, drawn packed as the reference does."""
    tokens = (parameters.width // PATCH) * (parameters.height // PATCH)
    generator = torch.Generator(device).manual_seed(parameters.seed)
    return torch.randn(1, tokens, TOKEN_CHANNELS, generator=generator, device=device)


def unpacked(packed: torch.Tensor, parameters: SampleParameters) -> torch.Tensor:
    """Tokens [n, h w, 64] as latents [n, 16, 2h, 2w] in float32."""
    rows, columns = parameters.height // PATCH, parameters.width // PATCH
    grid = packed.float().view(-1, rows, columns, TOKEN_CHANNELS // 4, 2, 2)
    return grid.permute(0, 3, 1, 4, 2, 5).reshape(-1, TOKEN_CHANNELS // 4, 2 * rows, 2 * columns)
