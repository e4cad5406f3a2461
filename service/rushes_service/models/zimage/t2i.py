"""Z-Image, through diffusers' `ZImagePipeline`, with the reference sampler's schedule, noise and sequence.

Facts are musubi-tuner 0.3.4's (zimage_train_network.py, zimage/zimage_utils.py): noise levels are shifted in float64,
and neither text nor picture is padded to 32 tokens. diffusers pads both with learned tokens, which are attended to.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, ClassVar

import numpy as np
import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, ZImagePipeline, ZImageTransformer2DModel
from torch import nn

from rushes.errors import PromptError
from rushes.families.parameters import SampleParameters
from rushes.families.spec import ArchitectureSpec
from rushes.families.zimage import Z_IMAGE
from rushes.wire.jobs import ModelSpec, VaeOptions
from rushes_service.lora.targets import NameTable, name_table, renamed
from rushes_service.models.base import Architecture, Denoised, OnStep
from rushes_service.models.conditioning import Conditioning, ConditioningCache
from rushes_service.models.llm.qwen3 import ZImageText
from rushes_service.models.loading.files.hashes import FileHashCache
from rushes_service.models.loading.from_files import find_source
from rushes_service.models.loading.from_repo import Source, quiet_loading_bars
from rushes_service.models.vae.kl import SPATIAL_RATIO, decode_kl, plan_kl_tiles
from rushes_service.models.zimage.names import ORIGINAL_NAMES
from rushes_service.runtime.compat_diffusers_models import unpadded_z_image
from rushes_service.runtime.devices import name_of
from rushes_service.runtime.float8 import precision

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


class ZImage(Architecture):
    """z-image."""

    spec: ClassVar[ArchitectureSpec] = Z_IMAGE

    blocks = ("layers", "noise_refiner", "context_refiner")

    vae_dtype: ClassVar[torch.dtype] = torch.float32
    """As in the reference, whatever the transformer's precision."""

    def __init__(
        self, model: ModelSpec, device: torch.device, dtype: torch.dtype, file_hashes: FileHashCache | None = None
    ) -> None:
        super().__init__(model, device, dtype, file_hashes)
        pipelines, components = ("ZImagePipeline",), ("transformer", "vae")
        self.source: Source = find_source(model, self.spec, pipelines, components, self.file_hashes)
        self._text_files: str | None = None
        self._pipe: Any = None

    @classmethod
    def check(cls, parameters: SampleParameters) -> None:
        if not parameters.discrete_flow_shift:
            raise PromptError(
                "--fs 0 leaves nothing to denoise; Z-Image needs a flow shift above 0 (3 as trainers sample)",
                key="discrete_flow_shift",
            )

    def warnings(self, parameters: SampleParameters, vae: VaeOptions) -> tuple[str, ...]:
        warnings = []
        if vae.chunk_size is not None:
            warnings.append("--vae_chunk_size changes nothing for Z-Image: its VAE has no time to split")
        if tiles := plan_kl_tiles(vae, parameters.width, parameters.height):
            warnings.append(f"decoded in tiles of {tiles.size} pixels: approximate at their seams")
        if parameters.use_cfg and is_turbo(self.model):
            warnings.append(
                f"Z-Image-Turbo is distilled, and sampled with classifier-free guidance ({parameters.cfg_scale:g}) as "
                f"trainers do by default: --l 1 --s {TURBO_STEPS} is how it is meant to be sampled"
            )
        return tuple(warnings)

    def load(self) -> None:
        quiet_loading_bars()
        model = self.source.load("transformer", ZImageTransformer2DModel, self.dtype)
        coder = self.source.load("vae", AutoencoderKL, self.vae_dtype)
        for part in (model, coder):
            part.requires_grad_(False).to(self.device).eval()
        parts = {"transformer": model, "vae": coder, "scheduler": ReferenceScheduler()}
        self._pipe = ZImagePipeline(tokenizer=None, text_encoder=None, **parts)
        self._pipe.set_progress_bar_config(disable=True)

    @property
    def transformer(self) -> nn.Module:
        return self._pipe.transformer  # type: ignore[no-any-return]

    @property
    def vae(self) -> AutoencoderKL:
        """The loaded VAE."""
        return self._pipe.vae

    def lora_names(self) -> NameTable:
        return name_table(self.transformer, lambda name: renamed(name, ORIGINAL_NAMES))

    def text_key(self, text: str) -> dict[str, Any]:
        """Cache key of a text's embedding, see `ZImageText.encode`."""
        if self._text_files is None:
            self._text_files = self.source.fingerprint(ZImageText.parts)
        dtype = precision(self.dtype, float8=self.model.fp8_llm)
        return {"kind": "z-image", "files": self._text_files, "dtype": dtype, "text": text}

    def encode(self, parameters: SampleParameters, cache: ConditioningCache) -> Conditioning:
        texts = {"prompt_embeds": parameters.prompt}
        if parameters.negative_prompt is not None:
            texts["negative_prompt_embeds"] = parameters.negative_prompt
        encoder = ZImageText(self.source, self.device, self.dtype, float8=self.model.fp8_llm)
        try:
            found = {
                name: cache.get(self.text_key(text), lambda text=text: encoder.encode(text))["embeds"]
                for name, text in texts.items()
            }
        finally:
            encoder.free()
        return {name: tensor.to(self.device, self.dtype) for name, tensor in found.items()}

    def denoise(self, parameters: SampleParameters, conditioning: Conditioning, on_step: OnStep) -> Denoised:
        scheduler = self._pipe.scheduler = ReferenceScheduler(parameters.discrete_flow_shift or 1.0)
        total = parameters.sample_steps

        def step_ended(_pipe: Any, index: int, _timestep: Any, tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
            on_step(index + 1, total, tensors["latents"])
            return {}

        with unpadded_z_image():
            latents = self._pipe(
                **{name: [embeds] for name, embeds in conditioning.items()},
                latents=initial_noise(parameters, self.noise_device).to(self.device),
                width=parameters.width,
                height=parameters.height,
                num_inference_steps=total,
                # pos + scale * (pos - neg), in the pipeline as in the reference: the usual formula at scale + 1.
                guidance_scale=parameters.cfg_scale if parameters.use_cfg else 0.0,
                output_type="latent",
                return_dict=False,
                callback_on_step_end=step_ended,
            )[0]
        facts = {
            "scheduler": "Euler (flow)",
            "sigmas": scheduler.sigmas.tolist(),
            "vae_dtype": name_of(self.vae_dtype),
        }
        return Denoised(latents, facts)

    def decode(self, latents: torch.Tensor, vae: VaeOptions) -> Generator[torch.Tensor, None, None]:
        model = self.vae
        latents = latents.to(model.device, model.dtype) / model.config.scaling_factor + model.config.shift_factor
        pixels = decode_kl(model, latents, vae).float()
        yield (pixels[0, :, None] / 2 + 0.5).clamp(0, 1)


def is_turbo(model: ModelSpec) -> bool:
    """True if the transformer's name says that it is the distilled one."""
    return TURBO in (model.dit or model.model or "").lower()


def initial_noise(parameters: SampleParameters, device: torch.device) -> torch.Tensor:
    """Noise [1, 16, h, w] in float32, whatever the transformer's precision."""
    rows, columns = parameters.height // SPATIAL_RATIO, parameters.width // SPATIAL_RATIO
    generator = torch.Generator(device).manual_seed(parameters.seed)
    return torch.randn(1, LATENT_CHANNELS, rows, columns, generator=generator, device=device)
