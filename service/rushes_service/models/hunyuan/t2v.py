"""HunyuanVideo and SkyReels V1, as the reference samples them: Euler steps along the flow, noise frame by frame.

Facts are musubi-tuner 0.3.4's (hv_train_network.py and its scheduler): sigmas `shift(linspace(1, 0, N + 1))`, latents
kept in float32 between steps, embedded guidance, and true classifier-free guidance only with both `--n` and `--l`.
"""

from __future__ import annotations

from collections.abc import Generator, Hashable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers import AutoencoderKLHunyuanVideo, HunyuanVideoTransformer3DModel
from torch import nn

from rushes.errors import ModelError, PromptError
from rushes.families.parameters import SampleParameters
from rushes.families.rows.hunyuan import HUNYUAN_VIDEO, SKYREELS_V1_T2V
from rushes.families.spec import ArchitectureSpec
from rushes.wire.jobs import VaeOptions
from rushes.wire.models import ModelSpec
from rushes_service.lora.targets import NameTable, name_table, renamed
from rushes_service.models.base import Denoised, OnStep, Sample
from rushes_service.models.batching import stacked
from rushes_service.models.conditioning import Conditioning, ConditioningCache
from rushes_service.models.encoders.llama_clip import HunyuanText
from rushes_service.models.hunyuan.attention import give_attention, padding_is_behind, without_padding
from rushes_service.models.hunyuan.decode import decode_hunyuan
from rushes_service.models.hunyuan.names import ORIGINAL_NAMES
from rushes_service.models.loading.files.hashes import FileHashCache
from rushes_service.models.loading.from_files import find_source
from rushes_service.models.loading.from_repo import Source, quiet_loading_bars
from rushes_service.models.own_loop import NEGATIVE, OwnLoopArchitecture
from rushes_service.models.vae.tiles import plan_tiles
from rushes_service.runtime.devices import name_of
from rushes_service.runtime.float8 import precision

LATENT_CHANNELS = 16
TRAIN_TIMESTEPS = 1000
PATCH = 2
"""Latents per side of a token."""

FRAMES_AT_ONCE = 4
"""Decoded frames handed on together."""

TEXT_INPUTS = {
    "prompt_embeds": "encoder_hidden_states",
    "prompt_attention_mask": "encoder_attention_mask",
    "pooled_prompt_embeds": "pooled_projections",
}
"""Tensors of a text's conditioning, and the arguments of the transformer that take them."""


class HunyuanVideo(OwnLoopArchitecture):
    """hunyuan-video, and what its relatives share with it."""

    spec: ClassVar[ArchitectureSpec] = HUNYUAN_VIDEO
    chunked = True
    texts = tuple(TEXT_INPUTS)
    pipelines: ClassVar[tuple[str, ...]] = ("HunyuanVideoPipeline",)
    """Classes that `model_index.json` may name."""

    input_channels: ClassVar[tuple[int, ...]] = (LATENT_CHANNELS,)
    """Channels that a transformer of this family may take."""

    def __init__(
        self, model: ModelSpec, device: torch.device, dtype: torch.dtype, file_hashes: FileHashCache | None = None
    ) -> None:
        super().__init__(model, device, dtype, file_hashes)
        self.source: Source = find_source(model, self.spec, self.pipelines, ("vae",), self.file_hashes)
        # As in the reference, whatever the transformer's precision; half precision is slow on a CPU.
        self.side_dtype = torch.float16 if device.type == "cuda" else torch.float32
        self.usual_vae_dtype = self.side_dtype
        self._text_files: str | None = None
        self._transformer: Any = None
        self.vae: Any = None

    @classmethod
    def check(cls, parameters: SampleParameters) -> None:
        if not parameters.discrete_flow_shift:
            raise PromptError(f"--fs 0 leaves nothing to denoise; {cls.spec.name} needs a flow shift above 0 (7 to 17)")

    def warnings(self, parameters: SampleParameters, vae: VaeOptions) -> tuple[str, ...]:
        warnings = []
        if tiles := plan_tiles(vae, parameters.width, parameters.height):
            warnings.append(f"decoded in tiles of {tiles.size} pixels: approximate at their seams")
        if not self.guided:
            warnings.append("--g is ignored: this model has no embedded guidance")
        if self.spec.cfg_scale != 1 and not parameters.use_cfg:
            warnings.append(
                f"sampled without classifier-free guidance; {self.spec.name} is made for it: "
                f"add --n and --l {self.spec.cfg_scale:g}"
            )
        return tuple(warnings)

    def load(self) -> None:
        quiet_loading_bars()
        config = self.source.config("transformer", HunyuanVideoTransformer3DModel)
        check_channels(self.source.place("transformer"), config, self.input_channels, self.spec.name)
        told = self.untold(config)
        transformer = self.source.load(
            "transformer", HunyuanVideoTransformer3DModel, self.dtype, self.transformer_destination, **told
        )
        self.vae = self.source.load("vae", AutoencoderKLHunyuanVideo, self.vae_dtype, self.destination)
        self._transformer = transformer.to(self.device).eval().requires_grad_(False)
        self._attention = give_attention(self._transformer)
        self.vae.to(self.device).eval().requires_grad_(False)

    def untold(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """What a single file does not tell of a transformer of this family, given what it does."""
        return {}

    @property
    def transformer(self) -> nn.Module:
        return self._transformer  # type: ignore[no-any-return]

    @property
    def guided(self) -> bool:
        """True if the transformer takes an embedded guidance."""
        return bool(self.transformer.config.guidance_embeds)

    def lora_names(self) -> NameTable:
        return name_table(self.transformer, lambda name: renamed(name, ORIGINAL_NAMES))

    def text_key(self, text: str) -> dict[str, Any]:
        """Cache key of a text's embeddings, the tensors of `HunyuanText.encode`."""
        if self._text_files is None:
            self._text_files = self.source.fingerprint(HunyuanText.parts)
        return {"kind": "hunyuan", "files": self._text_files, "dtype": self.text_dtype, "text": text}

    def encode(self, parameters: SampleParameters, cache: ConditioningCache) -> Conditioning:
        texts = {"": parameters.prompt}
        if parameters.negative_prompt is not None:
            texts[NEGATIVE] = parameters.negative_prompt
        conditioning = {}
        with HunyuanText(
            self.source, self.device, self.side_dtype, self.encoders, float8=self.model.fp8_llm
        ) as encoder:
            for prefix, text in texts.items():
                tensors = cache.get(self.text_key(text), lambda text=text: encoder.encode(text))
                conditioning |= {prefix + name: tensor.to(self.device) for name, tensor in tensors.items()}
        return conditioning

    def uses_masks(self, conditioning: Conditioning) -> bool:
        return not padding_is_behind(conditioning)

    def unpadded(self, conditioning: Conditioning) -> Conditioning:
        """`conditioning` without padding, if that can be; the transformer's attention then needs no mask."""
        self._attention.masked = self.uses_masks(conditioning)
        return conditioning if self._attention.masked else without_padding(conditioning)

    def batch_key(self, parameters: SampleParameters, conditioning: Conditioning) -> Hashable:
        return None if self.uses_masks(conditioning) else super().batch_key(parameters, conditioning)

    def text_shapes(self, conditioning: Conditioning) -> Hashable:
        return super().text_shapes(without_padding(conditioning))

    def token_count(self, parameters: SampleParameters, conditioning: Conditioning) -> int:
        frames, side = (parameters.frame_count - 1) // 4 + 1, 8 * PATCH
        words = int(conditioning["prompt_attention_mask"].sum())
        return frames * (parameters.height // side) * (parameters.width // side) + words

    def guides_at_once(self, samples: Sequence[Sample]) -> bool:
        if any(self.uses_masks(conditioning) for _, conditioning in samples):
            return False
        return super().guides_at_once([(each, without_padding(conditioning)) for each, conditioning in samples])

    @torch.no_grad()
    def denoise_all(self, samples: Sequence[Sample], on_step: OnStep, *, at_once: bool) -> Denoised:
        (parameters, _), *_ = samples
        total = parameters.sample_steps
        conditioning = stacked([(each, self.unpadded(given)) for each, given in samples])
        sigmas = flow_sigmas(total, parameters.discrete_flow_shift or 1.0)
        noise = torch.cat([initial_noise(each, self.noise_device, self.dtype) for each, _ in samples])
        latents = noise.to(self.device).float()
        for done, (sigma, following) in enumerate(pairwise(sigmas.to(self.device)), start=1):
            velocity = self.velocity(latents, sigma, conditioning, parameters, at_once=at_once)
            latents = latents + velocity.float() * (following - sigma)
            on_step(done, total, latents)
        facts = {"scheduler": "Euler (flow)", "sigmas": sigmas.tolist(), **self.dtype_facts()}
        return Denoised(latents, facts)

    def dtype_facts(self) -> dict[str, str]:
        """Precisions, for the receipt."""
        return {"vae_dtype": name_of(self.vae_dtype), "text_dtype": self.text_dtype}

    @property
    def text_dtype(self) -> str:
        """Precision of the first text encoder."""
        return precision(self.side_dtype, float8=self.model.fp8_llm)

    def predict(
        self,
        latents: torch.Tensor,
        sigma: torch.Tensor,
        conditioning: Conditioning,
        parameters: SampleParameters,
    ) -> torch.Tensor:
        if "image_latents" in conditioning:
            latents = torch.cat([latents, conditioning["image_latents"].to(latents)], dim=1)
        guidance = torch.full(
            (len(latents),), (parameters.guidance_scale or 0.0) * 1000.0, device=self.device, dtype=self.dtype
        )
        texts = {argument: conditioning[name].to(self.dtype) for name, argument in TEXT_INPUTS.items()}
        return self.transformer(  # type: ignore[no-any-return]
            hidden_states=latents.to(self.dtype),
            timestep=(sigma * TRAIN_TIMESTEPS).to(self.dtype).expand(len(latents)),
            guidance=guidance if self.guided else None,
            return_dict=False,
            **texts,
        )[0]

    def decode(self, latents: torch.Tensor, vae: VaeOptions) -> Generator[torch.Tensor, None, None]:
        unscaled = (latents / self.decoder.config.scaling_factor).to(self.decoder.device, self.decoder.dtype)
        pixels = decode_hunyuan(self.decoder, unscaled, vae)[0]
        for clip in pixels[:, self.spare_frames :].split(FRAMES_AT_ONCE, dim=1):
            yield (clip / 2 + 0.5).clamp(0, 1).float()

    @property
    def spare_frames(self) -> int:
        """Frames at the beginning of a decoded clip that are not part of the sample."""
        return 0


class SkyReelsTextToVideo(HunyuanVideo):
    """skyreels-v1-t2v: HunyuanVideo's layout, trained for true classifier-free guidance."""

    spec: ClassVar[ArchitectureSpec] = SKYREELS_V1_T2V


def flow_sigmas(steps: int, shift: float) -> torch.Tensor:
    """Noise levels of `steps` steps from 1 to 0, [steps + 1], float32."""
    even = torch.linspace(1, 0, steps + 1)
    return (shift * even) / (1 + (shift - 1) * even)


def initial_noise(parameters: SampleParameters, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """Noise [1, 16, T, h, w], each latent frame drawn on its own, in the transformer's precision."""
    shape = (1, LATENT_CHANNELS, 1, parameters.height // 8, parameters.width // 8)
    generator = torch.Generator(device).manual_seed(parameters.seed)
    frames = (parameters.frame_count - 1) // 4 + 1
    return torch.cat(
        [torch.randn(shape, generator=generator, device=device, dtype=dtype) for _ in range(frames)], dim=2
    )


def check_channels(place: Path, config: Mapping[str, Any], allowed: tuple[int, ...], name: str) -> None:
    """Raise `ModelError` if the transformer at `place` takes another number of channels: it is another model."""
    found = config.get("in_channels")
    if found not in allowed:
        wanted = " or ".join(str(count) for count in allowed)
        raise ModelError(
            f"{place} takes {found} input channels, {name} {wanted}: text-to-video models have 16, "
            "SkyReels image-to-video 32, HunyuanVideo image-to-video 16 or 33"
        )
