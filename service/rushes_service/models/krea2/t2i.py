"""Krea 2, Raw and Turbo, through diffusers' `Krea2Pipeline`, with the reference sampler's noise and sequence.

Facts are musubi-tuner 0.3.4's (krea2_train_network.py, krea2/krea2_sampling.py): the shift grows with the picture, or
is that of 6400 tokens for Turbo, whatever `--fs` says; guidance needs a negative prompt; texts bear no padding.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from diffusers import AutoencoderKLQwenImage, Krea2Pipeline, Krea2Transformer2DModel
from torch import nn

from rushes.families.parameters import SampleParameters
from rushes.families.rows.qwen import KREA2
from rushes.families.spec import ArchitectureSpec
from rushes.wire.jobs import VaeOptions
from rushes_service.models.base import Denoised, OnStep, Sample
from rushes_service.models.conditioning import Conditioning, ConditioningCache
from rushes_service.models.euler import ReferenceEuler, timed_by
from rushes_service.models.krea2.names import ORIGINAL_NAMES
from rushes_service.models.llm.qwen3_vl import Krea2Text
from rushes_service.models.pictures import NEGATIVE, PATCH, PictureArchitecture, picture, step_callback
from rushes_service.models.vae.qwen import LATENT_CHANNELS, SPATIAL_RATIO, decode_qwen
from rushes_service.models.vae.tiles import TilePlan, plan_tiles

TURBO = "turbo"
TURBO_STEPS = 8
HUB_IDS = {"raw": "krea/Krea-2-Raw", TURBO: "krea/Krea-2-Turbo"}


class Krea2(PictureArchitecture):
    """krea2."""

    spec: ClassVar[ArchitectureSpec] = KREA2

    called = "Krea 2"
    pipelines = ("Krea2Pipeline",)
    transformer_class, vae_class = Krea2Transformer2DModel, AutoencoderKLQwenImage
    original_names = ORIGINAL_NAMES
    text_class, text_kind, text_float8 = Krea2Text, "krea2", "fp8_vl"

    blocks = ("transformer_blocks",)
    text_mask = "encoder_attention_mask"
    unsampled = ("position_ids",)

    def published_as(self) -> ArchitectureSpec:
        return replace(self.spec, hub_id=HUB_IDS[self.version])

    @property
    def turbo(self) -> bool:
        """True for the distilled model: told by `--model_version`, or by the directory that its transformer is of."""
        told = self.model.dit is None and self.source.index().get("is_distilled")
        return self.model.model_version == TURBO or bool(told)

    def warnings(self, parameters: SampleParameters, vae: VaeOptions) -> tuple[str, ...]:
        warnings = list(super().warnings(parameters, vae))
        if not self.turbo and not parameters.use_cfg:
            warnings.append(
                "sampled without classifier-free guidance; Krea 2 Raw is made for it: "
                f"add --n and --l {self.spec.cfg_scale:g}"
            )
        if self.turbo and (parameters.use_cfg or parameters.sample_steps != TURBO_STEPS):
            asked = f"--l {parameters.cfg_scale:g} --s {parameters.sample_steps}"
            warnings.append(f"--l 1 --s {TURBO_STEPS} is how Krea 2 Turbo is meant to be sampled, not {asked}")
        return tuple(warnings)

    def plan_tiles(self, vae: VaeOptions, width: int, height: int) -> TilePlan | None:
        return plan_tiles(vae, width, height)

    def pipeline(self, **parts: Any) -> Any:
        return Krea2Pipeline(tokenizer=None, text_encoder=None, is_distilled=self.turbo, scheduler=schedule(), **parts)

    def encode(self, parameters: SampleParameters, cache: ConditioningCache) -> Conditioning:
        return {name: tensor[None] for name, tensor in super().encode(parameters, cache).items()}

    def guides(self, parameters: SampleParameters, conditioning: Conditioning) -> bool:
        return parameters.use_cfg and parameters.cfg_scale > 1 and NEGATIVE in conditioning

    def noise(self, parameters: SampleParameters) -> torch.Tensor:
        return initial_noise(parameters, self.noise_device, self.dtype)

    def denoise_all(self, samples: Sequence[Sample], on_step: OnStep, *, at_once: bool) -> Denoised:
        (parameters, _), *_ = samples
        scheduler = self._pipe.scheduler = schedule()
        total = parameters.sample_steps
        texts = self.padded_texts(samples, at_once=at_once)

        with (
            self.guided(texts, at_once=at_once),
            timed_by(self.transformer, scheduler),
            told_text(self.transformer, masked=not all_count(texts)),
        ):
            tokens = self._pipe(
                **texts,
                latents=self.noises(samples),
                width=parameters.width,
                height=parameters.height,
                num_inference_steps=total,
                # cond + g (cond - uncond), in the pipeline: the usual formula at a scale of g + 1.
                guidance_scale=parameters.cfg_scale - 1 if parameters.use_cfg else 0.0,
                output_type="latent",
                return_dict=False,
                callback_on_step_end=step_callback(on_step, total),
            )[0]
        return Denoised(unpacked(tokens, parameters), self.facts(scheduler.sigmas))

    def decode(self, latents: torch.Tensor, vae: VaeOptions) -> Generator[torch.Tensor, None, None]:
        height, width = (SPATIAL_RATIO * size for size in latents.shape[-2:])
        yield picture(decode_qwen(self.decoder, latents, plan_tiles(vae, width, height)))


def schedule() -> ReferenceEuler:
    """The scheduler of a sample; the pipeline tells it `mu`: 0.5 at 256 tokens, 1.15 at 6400 and for Turbo."""
    return ReferenceEuler(
        use_dynamic_shifting=True, base_image_seq_len=256, max_image_seq_len=6400, base_shift=0.5, max_shift=1.15
    )


def all_count(texts: Conditioning) -> bool:
    """True if no text is padded."""
    return all(bool(valid.all()) for name, valid in texts.items() if name.endswith("_mask"))


@contextlib.contextmanager
def told_text(transformer: nn.Module, *, masked: bool) -> Iterator[None]:
    """Inside, `transformer` is told places for as many tokens as its text has, and no mask where that would hide none.

    The pipeline has one list of places for prompt and negative prompt, of the length of the prompt.
    """

    def tell(
        _module: nn.Module, args: tuple[Any, ...], inputs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        places = inputs["position_ids"][-inputs["hidden_states"].shape[1] :]
        words = places.new_zeros(inputs["encoder_hidden_states"].shape[1], places.shape[1])
        mask = inputs["encoder_attention_mask"] if masked else None
        return args, {**inputs, "position_ids": torch.cat([words, places]), "encoder_attention_mask": mask}

    hook = transformer.register_forward_pre_hook(tell, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()


def initial_noise(parameters: SampleParameters, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """Noise [1, tokens, 64] in `dtype`, drawn as latents [1, 16, h, w] in that very precision."""
    rows, columns = parameters.height // PATCH, parameters.width // PATCH
    generator = torch.Generator(device).manual_seed(parameters.seed)
    shape = (1, LATENT_CHANNELS, 2 * rows, 2 * columns)
    drawn = torch.randn(shape, generator=generator, device=device, dtype=dtype)
    return nn.functional.pixel_unshuffle(drawn, 2).flatten(2).transpose(1, 2)


def unpacked(tokens: torch.Tensor, parameters: SampleParameters) -> torch.Tensor:
    """Tokens [n, h w, 64] as latents [n, 16, 1, 2h, 2w] in float32."""
    rows, columns = parameters.height // PATCH, parameters.width // PATCH
    patches = tokens.float().transpose(1, 2).unflatten(2, (rows, columns))
    return nn.functional.pixel_shuffle(patches, 2)[:, :, None]
