"""Wan, through the components of diffusers' Wan pipelines, with the reference sampler's schedule and noise.

Facts are musubi-tuner 0.3.4's (wan_train_network.py, its UniPC scheduler): sigmas
`shift(linspace(.999, 0, N + 1)[:-1])`, classifier-free guidance unless the scale is exactly 1, and noise that is the
generator's second draw.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar

import numpy as np
import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel
from torch import nn

from rushes.errors import ModelError, PromptError
from rushes.families.parameters import SampleParameters
from rushes.families.rows.wan import WAN21_T2V
from rushes.families.spec import ArchitectureSpec
from rushes.wire.jobs import VaeOptions
from rushes.wire.models import ModelSpec
from rushes_service.lora.targets import NameTable
from rushes_service.models.base import Denoised, OnStep, Sample
from rushes_service.models.batching import BatchedArchitecture, guided_at_once, stacked
from rushes_service.models.conditioning import Conditioning, ConditioningCache
from rushes_service.models.encoders.umt5 import TextEncoder
from rushes_service.models.loading.files.hashes import FileHashCache
from rushes_service.models.loading.from_files import find_source
from rushes_service.models.loading.from_repo import Source, quiet_loading_bars
from rushes_service.models.vae.tiles import TilePlan, plan_tiles
from rushes_service.models.wan.decode import stream_wan
from rushes_service.models.wan.inputs import conditioned, unscaled
from rushes_service.models.wan.names import wan_names
from rushes_service.models.wan.room import VARIANTS
from rushes_service.models.wan.time_embedding import keep_float32
from rushes_service.runtime.compat_diffusers_models import guidance_scale
from rushes_service.runtime.devices import name_of
from rushes_service.runtime.float8 import precision

SIGMA_MAX = 0.999
LATENT_CHANNELS = 16
NEGATIVE = "negative_prompt_embeds"
TEXT_ARGUMENTS = ("prompt_embeds", NEGATIVE)

PATCH = 2
"""Latents per side of a token."""


class WanScheduler(UniPCMultistepScheduler):
    """UniPC over the reference's sigmas. The Wan pipelines pass no sigmas, so the schedule lives here."""

    def __init__(self, shift: float = 1.0) -> None:
        super().__init__(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=1.0)
        self.shift = shift

    def set_timesteps(self, num_inference_steps: int, device: Any = None, **options: Any) -> None:
        """Prepare a run of `num_inference_steps` steps at this shift."""
        super().set_timesteps(num_inference_steps, device=device, **options)
        steps = np.linspace(SIGMA_MAX, 0, num_inference_steps + 1)[:-1]
        sigmas = self.shift * steps / (1 + (self.shift - 1) * steps)
        self.sigmas = torch.from_numpy(np.append(sigmas, 0).astype(np.float32))
        self.timesteps = torch.from_numpy(sigmas * self.config.num_train_timesteps).to(device, torch.int64)
        # Else it is looked up by the first timestep, and found one too late if the second rounds to the same number.
        self.set_begin_index(0)


def forget(scheduler: UniPCMultistepScheduler) -> None:
    """Let go of the latents of earlier steps, which lie on the device."""
    scheduler.model_outputs = [None] * scheduler.config.solver_order
    scheduler.last_sample = None


class ReferencePipeline(WanPipeline):
    """`WanPipeline` with guidance whenever the scale is not 1, where diffusers needs more than 1."""

    @property
    def do_classifier_free_guidance(self) -> bool:
        """True if each step also runs the negative prompt."""
        return guidance_scale(self) != 1.0


def transformers_in(module: nn.Module) -> list[nn.Module]:
    """One transformer, or both experts."""
    return list(module.values()) if isinstance(module, nn.ModuleDict) else [module]


class Wan(BatchedArchitecture):
    """What all Wan models share; a subclass says what its files are called and what else conditions it."""

    pipelines: ClassVar[tuple[str, ...]]
    """Classes that `model_index.json` may name."""

    in_channels: ClassVar[int]
    """Latent channels that the transformer takes: 16 of noise, and what is given beside it."""

    out_channels: ClassVar[int] = LATENT_CHANNELS
    """Latent channels of the VAE."""

    spatial_ratio: ClassVar[int] = 8
    """Pixels per side of a latent."""

    blocks = ("blocks",)
    own_inputs = frozenset(TEXT_ARGUMENTS)

    usual_vae_dtype = torch.float32
    """As diffusers advises for Wan's VAE: bfloat16 shows in flat areas, and streamed decoding is small anyway."""

    def __init__(
        self, model: ModelSpec, device: torch.device, dtype: torch.dtype, file_hashes: FileHashCache | None = None
    ) -> None:
        super().__init__(model, device, dtype, file_hashes)
        self.source: Source = find_source(model, self.spec, self.pipelines, ("vae",), self.file_hashes)
        self._text_files: str | None = None
        self._pipe: Any = None

    @classmethod
    def check(cls, parameters: SampleParameters) -> None:
        if not parameters.discrete_flow_shift:
            raise PromptError("--fs 0 leaves nothing to denoise; Wan needs a flow shift above 0 (3 to 14.5)")

    def warnings(self, parameters: SampleParameters, vae: VaeOptions) -> tuple[str, ...]:
        warnings = []
        if vae.chunk_size is not None:
            warnings.append("--vae_chunk_size changes nothing for Wan: it decodes frame by frame anyway")
        if tiles := self.tiles(vae, parameters.width, parameters.height):
            warnings.append(f"decoded in tiles of {tiles.size} pixels: approximate at their seams")
        return tuple(warnings)

    def tiles(self, options: VaeOptions, width: int, height: int) -> TilePlan | None:
        """The tiling that `options` ask for; None if none is, or the picture fits one tile."""
        return plan_tiles(options, width, height, self.spatial_ratio)

    def load(self) -> None:
        quiet_loading_bars()
        self._pipe = self.pipeline(transformer=self.load_transformer("transformer"))

    def load_transformer(self, name: str) -> WanTransformer3DModel:
        """A transformer of this family, on the device; `name` is the component's."""
        self.check_config(name, self.source.config(name, WanTransformer3DModel))
        model = self.source.load(name, WanTransformer3DModel, self.dtype, self.transformer_destination)
        return keep_float32(model).to(self.device).eval().requires_grad_(False)

    def check_config(self, name: str, config: Mapping[str, Any]) -> None:
        """Raise `ModelError` unless the transformer called `name`, of this configuration, is of this family.

        Wan's families differ in little else, and weights of the wrong one fail late and obscurely.
        """
        found = config.get("in_channels", LATENT_CHANNELS)
        made = config.get("out_channels", LATENT_CHANNELS)
        if (found, made) != (self.in_channels, self.out_channels):
            raise ModelError(
                f"{self.source.place(name)} takes {found} channels ({variant(found, made)}), but this architecture "
                f"needs {self.in_channels} ({variant(self.in_channels, self.out_channels)})"
            )

    def pipeline(self, **parts: Any) -> WanPipeline:
        """The pipeline around loaded transformers, without text encoder."""
        vae = self.source.load("vae", AutoencoderKLWan, self.vae_dtype, self.destination)
        vae = vae.to(self.device).eval().requires_grad_(False)
        pipe = ReferencePipeline(tokenizer=None, text_encoder=None, vae=vae, scheduler=WanScheduler(), **parts)
        pipe.set_progress_bar_config(disable=True)
        return pipe

    @property
    def transformer(self) -> nn.Module:
        return self._pipe.transformer  # type: ignore[no-any-return]

    @property
    def vae(self) -> AutoencoderKLWan:
        """The loaded VAE."""
        return self._pipe.vae

    def lora_names(self) -> NameTable:
        return wan_names(self.transformer)

    def text_key(self, text: str) -> dict[str, Any]:
        """Cache key of a text's embedding: tensor `embeds` [1, 512, text_dim]."""
        if self._text_files is None:
            self._text_files = self.source.fingerprint(("text_encoder", "tokenizer"))
        dtype = precision(self.dtype, float8=self.model.fp8_t5)
        return {"kind": "umt5", "files": self._text_files, "dtype": dtype, "text": text}

    def encode(self, parameters: SampleParameters, cache: ConditioningCache) -> Conditioning:
        texts = {"prompt_embeds": parameters.prompt}
        if parameters.negative_prompt is not None:
            texts["negative_prompt_embeds"] = parameters.negative_prompt
        with TextEncoder(self.source, self.device, self.dtype, self.encoders, float8=self.model.fp8_t5) as encoder:
            return {
                name: cache.get(self.text_key(text), lambda text=text: encoder.encode(text))["embeds"].to(self.device)
                for name, text in texts.items()
            }

    def uses_masks(self, conditioning: Conditioning) -> bool:
        return False

    def guides(self, parameters: SampleParameters, conditioning: Conditioning) -> bool:
        """True if each step also computes the negative prompt."""
        return self.guidance(parameters)["guidance_scale"] != 1.0 and NEGATIVE in conditioning

    def token_count(self, parameters: SampleParameters, conditioning: Conditioning) -> int:
        frames, side = (parameters.frame_count - 1) // 4 + 1, PATCH * self.spatial_ratio
        return frames * (parameters.height // side) * (parameters.width // side)

    def denoise_all(self, samples: Sequence[Sample], on_step: OnStep, *, at_once: bool) -> Denoised:
        (parameters, _), *_ = samples
        conditioning, noise = stacked(samples), torch.cat([self.noise(*sample) for sample in samples])
        scheduler = self._pipe.scheduler = self.scheduler(parameters.discrete_flow_shift or 1.0)
        total = parameters.sample_steps

        def step_ended(_pipe: Any, index: int, _timestep: Any, tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
            on_step(index + 1, total, tensors["latents"])
            return {}

        texts = {name: tensor for name, tensor in conditioning.items() if name in TEXT_ARGUMENTS}
        with self.inputs(conditioning), contextlib.ExitStack() as stack:
            stack.callback(forget, scheduler)
            for part in transformers_in(self.transformer) if at_once else ():
                both = torch.cat([texts["prompt_embeds"], texts[NEGATIVE]])
                stack.enter_context(guided_at_once(part, {"encoder_hidden_states": both}))
            latents = self._pipe(
                **texts,
                **self.guidance(parameters),
                latents=noise,
                width=parameters.width,
                height=parameters.height,
                num_frames=4 * (noise.shape[2] - 1) + 1,
                num_inference_steps=total,
                output_type="latent",
                return_dict=False,
                callback_on_step_end=step_ended,
                callback_on_step_end_tensor_inputs=["latents"],
            )[0]
        return Denoised(latents, {"sigmas": scheduler.sigmas.tolist(), **self.facts()})

    def scheduler(self, shift: float) -> UniPCMultistepScheduler:
        """The scheduler of a sample."""
        return WanScheduler(shift)

    def noise(self, parameters: SampleParameters, conditioning: Conditioning) -> torch.Tensor:
        """The latents that denoising begins with, [1, 16, T, h, w] in float32."""
        return initial_noise(parameters, self.noise_device).to(self.device)

    def facts(self) -> dict[str, Any]:
        """What the receipt says about the sampler, besides its schedule."""
        return {"scheduler": "UniPC (flow)", "vae_dtype": name_of(self.vae_dtype)}

    def inputs(self, conditioning: Conditioning) -> AbstractContextManager[None]:
        """Inside, the transformer gets what `conditioning` holds besides text."""
        return conditioned(self.transformer, conditioning)

    def guidance(self, parameters: SampleParameters) -> dict[str, float | None]:
        """Scales of classifier-free guidance, by argument of the pipeline."""
        return {"guidance_scale": parameters.cfg_scale}

    def decode(self, latents: torch.Tensor, vae: VaeOptions) -> Generator[torch.Tensor, None, None]:
        height, width = (self.spatial_ratio * size for size in latents.shape[-2:])
        tiles = self.tiles(vae, width, height)
        for pixels in stream_wan(self.decoder, unscaled(self.decoder, latents), tiles):
            yield (pixels[0].float() / 2 + 0.5).clamp(0, 1)


def variant(taken: int, made: int) -> str:
    """What a transformer is for, by the channels it takes and makes."""
    if made != LATENT_CHANNELS:
        return "Wan2.2 5B"
    return VARIANTS.get(taken, "an unknown kind of Wan")


class WanTextToVideo(Wan):
    """wan2.1-t2v."""

    spec: ClassVar[ArchitectureSpec] = WAN21_T2V
    pipelines = ("WanPipeline",)
    in_channels = LATENT_CHANNELS


def initial_noise(parameters: SampleParameters, device: torch.device, frames: int | None = None) -> torch.Tensor:
    """Noise [1, 16, T, h, w] in float32 as the reference draws it on its sampling device.

    It first draws each latent frame on its own, throws them away, and draws the clip anew from the same generator.

    Args:
        frames: latent frames T, by default those of the clip.
    """
    frames = frames or (parameters.frame_count - 1) // 4 + 1
    height, width = parameters.height // 8, parameters.width // 8
    generator = torch.Generator(device).manual_seed(parameters.seed)
    for _ in range(frames):
        torch.randn(1, LATENT_CHANNELS, 1, height, width, generator=generator, device=device)
    return torch.randn(LATENT_CHANNELS, frames, height, width, generator=generator, device=device)[None]
