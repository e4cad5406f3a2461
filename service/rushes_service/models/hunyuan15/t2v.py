"""HunyuanVideo 1.5 through diffusers' modules, with the reference sampler's schedule, noise and conditions.

Facts are musubi-tuner 0.3.4's (hv_1_5_train_network.py): noise in one draw in the transformer's precision, Euler steps
in float32, timesteps that are not rounded, classifier-free guidance of 6 against an empty prompt unless `--l 1`. The
loop is our own: diffusers' pipelines for this model have no callback and choose sizes themselves.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from itertools import pairwise
from typing import Any, ClassVar

import torch
from diffusers import AutoencoderKLHunyuanVideo15
from torch import nn

from rushes.errors import PromptError
from rushes.families.parameters import SampleParameters
from rushes.families.rows.hunyuan15 import HUNYUAN_VIDEO_15_T2V
from rushes.families.spec import ArchitectureSpec
from rushes.wire.jobs import VaeOptions
from rushes.wire.models import ModelSpec
from rushes_service.lora.targets import NameTable
from rushes_service.models.base import Denoised, OnStep, Sample
from rushes_service.models.batching import stacked
from rushes_service.models.conditioning import Conditioning, ConditioningCache
from rushes_service.models.hunyuan15.names import hunyuan15_names
from rushes_service.models.hunyuan15.text import HunyuanVideo15Text
from rushes_service.models.hunyuan15.transformer import HunyuanVideo15Transformer
from rushes_service.models.hunyuan15.vae import SPATIAL_RATIO, decoded, tile_size
from rushes_service.models.loading.files.hashes import FileHashCache
from rushes_service.models.loading.from_files import find_source
from rushes_service.models.loading.from_repo import Source, quiet_loading_bars
from rushes_service.models.own_loop import NEGATIVE, OwnLoopArchitecture
from rushes_service.runtime.devices import name_of
from rushes_service.runtime.float8 import precision

TRAIN_TIMESTEPS = 1000.0
CONDITION = "condition"
"""Key of what is given beside the noise: latents and mask, [1, C + 1, T, h, w]."""

IMAGE = "image"
"""Key of the start image's embedding, [1, n, 1152]."""

FRAMES_AT_ONCE = 4
"""Decoded frames handed on together."""


class HunyuanVideo15(OwnLoopArchitecture):
    """hunyuan-video-1.5-t2v."""

    spec: ClassVar[ArchitectureSpec] = HUNYUAN_VIDEO_15_T2V

    pipelines: ClassVar[tuple[str, ...]] = ("HunyuanVideo15Pipeline",)
    blocks = ("transformer_blocks",)
    texts = ("embeds", "glyphs")

    def __init__(
        self, model: ModelSpec, device: torch.device, dtype: torch.dtype, file_hashes: FileHashCache | None = None
    ) -> None:
        super().__init__(model, device, dtype, file_hashes)
        components = ("transformer", "vae")
        self.source: Source = find_source(model, self.spec, self.pipelines, components, self.file_hashes)
        # As in the reference, whatever the transformer's precision; half precision is slow on a CPU.
        self.side_dtype = torch.float16 if device.type == "cuda" else torch.float32
        self.usual_vae_dtype = self.side_dtype
        self._fingerprints: dict[tuple[str, ...], str] = {}
        self._transformer: Any = None
        self.vae: Any = None

    @classmethod
    def check(cls, parameters: SampleParameters) -> None:
        if not parameters.discrete_flow_shift:
            raise PromptError(
                "--fs 0 leaves nothing to denoise; HunyuanVideo 1.5 needs a flow shift above 0 (5 to 14.5)",
                key="discrete_flow_shift",
            )

    def warnings(self, parameters: SampleParameters, vae: VaeOptions) -> tuple[str, ...]:
        warnings = []
        if vae.chunk_size is not None:
            warnings.append("--vae_chunk_size changes nothing for HunyuanVideo 1.5: its VAE works in tiles")
        asked = vae.spatial_tile_sample_min_size
        if asked and asked != (size := tile_size(vae)):
            warnings.append(f"tiles of {asked} pixels are made {size}: multiples of 64 fit their overlap")
        return tuple(warnings)

    def load(self) -> None:
        quiet_loading_bars()
        self._transformer = self.source.load(
            "transformer", HunyuanVideo15Transformer, self.dtype, self.transformer_destination
        )
        self.vae = self.source.load("vae", AutoencoderKLHunyuanVideo15, self.vae_dtype, self.destination)
        for part in (self._transformer, self.vae):
            part.to(self.device).eval().requires_grad_(False)

    @property
    def transformer(self) -> nn.Module:
        return self._transformer  # type: ignore[no-any-return]

    def lora_names(self) -> NameTable:
        return hunyuan15_names(self.transformer)

    def fingerprint(self, parts: tuple[str, ...]) -> str:
        """Content identity of some parts of the model."""
        if parts not in self._fingerprints:
            self._fingerprints[parts] = self.source.fingerprint(parts)
        return self._fingerprints[parts]

    def text_key(self, text: str) -> dict[str, Any]:
        """Cache key of a text's embeddings, see `HunyuanVideo15Text.encode`."""
        dtype = f"{precision(self.dtype, float8=self.model.fp8_vl)}+{name_of(self.side_dtype)}"
        files = self.fingerprint(HunyuanVideo15Text.parts)
        return {"kind": "hunyuan-1.5", "files": files, "dtype": dtype, "text": text}

    def encode(self, parameters: SampleParameters, cache: ConditioningCache) -> Conditioning:
        texts = {"": parameters.prompt}
        if parameters.negative_prompt is not None:
            texts[NEGATIVE] = parameters.negative_prompt
        found = {}
        with HunyuanVideo15Text(
            self.source, self.device, self.dtype, self.encoders, float8=self.model.fp8_vl, glyph_dtype=self.side_dtype
        ) as encoder:
            for prefix, text in texts.items():
                tensors = cache.get(self.text_key(text), lambda text=text: encoder.encode(text))
                found |= {prefix + name: tensor.to(self.device, self.dtype) for name, tensor in tensors.items()}
        return found

    def uses_masks(self, conditioning: Conditioning) -> bool:
        return False

    def token_count(self, parameters: SampleParameters, conditioning: Conditioning) -> int:
        words = sum(conditioning[name].shape[1] for name in (*self.texts, IMAGE) if name in conditioning)
        return math.prod(self.latents_shape(parameters)[2:]) + words

    @torch.no_grad()
    def denoise_all(self, samples: Sequence[Sample], on_step: OnStep, *, at_once: bool) -> Denoised:
        (parameters, _), *_ = samples
        conditioning, total = stacked(samples), parameters.sample_steps
        sigmas = flow_sigmas(total, parameters.discrete_flow_shift or 1.0)
        latents = torch.cat([self.noise(each) for each, _ in samples])
        for done, (sigma, following) in enumerate(pairwise(sigmas.to(self.device)), start=1):
            velocity = self.velocity(latents, sigma, conditioning, parameters, at_once=at_once)
            latents = latents + velocity * (following - sigma)
            on_step(done, total, latents)
        facts = {"scheduler": "Euler (flow)", "sigmas": sigmas.tolist(), "vae_dtype": name_of(self.vae_dtype)}
        return Denoised(latents, facts)

    def noise(self, parameters: SampleParameters) -> torch.Tensor:
        """Noise [1, 32, T, h, w], drawn at once in the transformer's precision; float32."""
        generator = self.noise_generator(parameters.seed)
        shape = self.latents_shape(parameters)
        drawn = torch.randn(shape, generator=generator, device=generator.device, dtype=self.dtype)
        return drawn.to(self.device).float()

    def latents_shape(self, parameters: SampleParameters) -> tuple[int, ...]:
        """Shape of a clip's latents, [1, 32, T, h, w]."""
        frames = (parameters.frame_count - 1) // 4 + 1
        channels = self.transformer.config.out_channels
        return (1, channels, frames, parameters.height // SPATIAL_RATIO, parameters.width // SPATIAL_RATIO)

    def predict(
        self, latents: torch.Tensor, sigma: torch.Tensor, conditioning: Conditioning, parameters: SampleParameters
    ) -> torch.Tensor:
        config = self.transformer.config
        given = conditioning.get(CONDITION)
        if given is None:
            given = latents.new_zeros(len(latents), config.in_channels - config.out_channels, *latents.shape[2:])
        text, glyphs = conditioning["embeds"], conditioning["glyphs"]
        image = conditioning.get(IMAGE, text.new_zeros(len(text), 0, config.image_embed_dim))
        return self.transformer(  # type: ignore[no-any-return]
            hidden_states=torch.cat([latents, given], dim=1).to(self.dtype),
            timestep=(sigma * TRAIN_TIMESTEPS).expand(len(latents)),
            encoder_hidden_states=text,
            encoder_attention_mask=torch.ones_like(text[..., 0]),
            encoder_hidden_states_2=glyphs,
            encoder_attention_mask_2=torch.ones_like(glyphs[..., 0]),
            image_embeds=image.to(self.dtype),
            return_dict=False,
        )[0].float()

    def decode(self, latents: torch.Tensor, vae: VaeOptions) -> Generator[torch.Tensor, None, None]:
        for frames in decoded(self.decoder, latents, vae)[0].split(FRAMES_AT_ONCE, dim=1):
            yield (frames.float() / 2 + 0.5).clamp(0, 1)


def flow_sigmas(steps: int, shift: float) -> torch.Tensor:
    """Noise levels of `steps` steps from 1 to 0, [steps + 1], float32."""
    even = torch.linspace(1, 0, steps + 1)
    return (shift * even) / (1 + (shift - 1) * even)
