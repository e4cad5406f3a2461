"""What FLUX.2 klein and dev share: diffusers' pipelines with the reference sampler's schedule, noise and pictures.

Facts are musubi-tuner 0.3.4's (flux_2_train_network.py, flux_2/flux2_utils.py): without `--fs` the shift depends on the
sizes of the picture and of a step, as in diffusers; noise is drawn unpacked; control images are brought to a size of
their own, and their latents are the posterior's mean.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from diffusers import AutoencoderKLFlux2, Flux2Transformer2DModel
from torch import nn

from rushes.errors import ModelError, PromptError
from rushes.families.parameters import SampleParameters
from rushes.families.spec import ArchitectureSpec
from rushes.wire.jobs import VaeOptions
from rushes_service.models.base import Denoised, OnStep, Sample
from rushes_service.models.batching import stacked
from rushes_service.models.conditioning import Conditioning
from rushes_service.models.euler import ReferenceEuler, timed_by
from rushes_service.models.flux2.control import CONTROL, control_pixels, control_tokens, encode_control, statistics
from rushes_service.models.flux2.names import ORIGINAL_NAMES
from rushes_service.models.inputs.images import to_signed
from rushes_service.models.pictures import PATCH, PictureArchitecture, picture, step_callback
from rushes_service.models.vae.kl import decode_kl

CHANNELS = 128
"""Of a token: 32 latent channels of 2 x 2."""


class Flux2(PictureArchitecture):
    """FLUX.2 of any kind; a subclass says which pipeline samples it and how text is encoded."""

    called = "FLUX.2"
    transformer_class, vae_class = Flux2Transformer2DModel, AutoencoderKLFlux2
    original_names = ORIGINAL_NAMES

    hub_ids: ClassVar[dict[str, str]]
    """Repositories by version."""

    guidance_embeds: ClassVar[bool]
    """True if the transformer takes `--g` as an input."""

    def published_as(self) -> ArchitectureSpec:
        return replace(self.spec, hub_id=self.hub_ids[self.version])

    @classmethod
    def check(cls, parameters: SampleParameters) -> None:
        if parameters.discrete_flow_shift == 0:
            raise PromptError(
                "--fs 0 leaves nothing to denoise (in FLUX.1 Kontext it is the shift that grows with the picture; here "
                "leave --fs out for that)",
                key="discrete_flow_shift",
            )
        several = len(parameters.control_image_path) > 1
        for path in parameters.control_image_path:
            control_pixels(path, several=several)

    def check_config(self, config: Any) -> None:
        if config.guidance_embeds != self.guidance_embeds:
            kind, other = ("dev", "flux2-dev") if config.guidance_embeds else ("klein", "flux2-klein")
            raise ModelError(f"{self.source.place('transformer')} is FLUX.2 {kind}: say --architecture {other}")

    @torch.no_grad()
    def encode_images(self, parameters: SampleParameters, conditioning: Conditioning, vae: VaeOptions) -> Conditioning:
        found = dict(conditioning)
        several = len(parameters.control_image_path) > 1
        for index, path in enumerate(parameters.control_image_path):
            pixels = to_signed(control_pixels(path, several=several))[None]
            found[CONTROL.format(index)] = encode_control(self.vae, pixels)
        return found

    def uses_masks(self, conditioning: Conditioning) -> bool:
        return False

    def shown_tokens(self, conditioning: Conditioning) -> int:
        tokens, _ = control_tokens(conditioning)
        return 0 if tokens is None else tokens.shape[1]

    def noise(self, parameters: SampleParameters) -> torch.Tensor:
        return initial_noise(parameters, self.noise_device, self.dtype)

    def denoise_all(self, samples: Sequence[Sample], on_step: OnStep, *, at_once: bool) -> Denoised:
        (parameters, conditioning), *_ = samples
        scheduler = self._pipe.scheduler = schedule(parameters)
        total = parameters.sample_steps
        last: list[torch.Tensor] = []

        def step_ended(done: int, of: int, latents: torch.Tensor) -> None:
            last[:] = [latents]
            on_step(done, of, latents)

        texts = {name: tensor for name, tensor in stacked(samples).items() if not name.startswith(CONTROL.format(""))}
        with (
            self.guided(texts, at_once=at_once),
            self.shown(conditioning),
            timed_by(self.transformer, scheduler),
        ):
            self._pipe(
                **texts,
                latents=self.noises(samples),
                width=parameters.width,
                height=parameters.height,
                sigmas=np.linspace(1.0, 1 / total, total),
                num_inference_steps=total,
                guidance_scale=1.0 if parameters.guidance_scale is None else parameters.guidance_scale,
                output_type="latent",
                callback_on_step_end=step_callback(step_ended, total),
            )
        return Denoised(unpacked(last[0], parameters), self.facts(scheduler.sigmas))

    @contextlib.contextmanager
    def shown(self, conditioning: Conditioning) -> Iterator[None]:
        """Inside, the transformer sees the control images behind the picture; the pipeline cuts its answer."""
        tokens, places = control_tokens(conditioning)
        if tokens is None:
            yield
            return

        def give(
            _module: nn.Module, args: tuple[Any, ...], inputs: dict[str, Any]
        ) -> tuple[tuple[Any, ...], dict[str, Any]]:
            own, at = inputs["hidden_states"], inputs["img_ids"]
            more = {"img_ids": torch.cat([at, places.to(at)], dim=1)}
            return args, {**inputs, "hidden_states": torch.cat([own, tokens.to(own)], dim=1), **more}

        hook = self.transformer.register_forward_pre_hook(give, with_kwargs=True)
        try:
            yield
        finally:
            hook.remove()

    @torch.no_grad()
    def decode(self, latents: torch.Tensor, vae: VaeOptions) -> Generator[torch.Tensor, None, None]:
        model = self.decoder
        mean, deviation = statistics(model)
        patches = latents.to(model.device, model.dtype) * deviation + mean
        unscaled = nn.functional.pixel_shuffle(patches, 2)
        yield picture(decode_kl(model, unscaled, vae))


def schedule(parameters: SampleParameters) -> ReferenceEuler:
    """The scheduler of a sample; the pipeline tells it `mu`, from tokens and steps."""
    shift = parameters.discrete_flow_shift
    return ReferenceEuler(shift=shift or 1.0, use_dynamic_shifting=shift is None)


def initial_noise(parameters: SampleParameters, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """Noise [1, 128, h, w] in `dtype`, drawn in that very precision as the reference does."""
    rows, columns = parameters.height // PATCH, parameters.width // PATCH
    generator = torch.Generator(device).manual_seed(parameters.seed)
    return torch.randn(1, CHANNELS, rows, columns, generator=generator, device=device, dtype=dtype)


def unpacked(tokens: torch.Tensor, parameters: SampleParameters) -> torch.Tensor:
    """Tokens [n, h w, 128] as latents [n, 128, h, w] in float32."""
    rows, columns = parameters.height // PATCH, parameters.width // PATCH
    return tokens.float().view(-1, rows, columns, CHANNELS).permute(0, 3, 1, 2).contiguous()
