"""FramePack through diffusers' modules, with the reference sampler's sections, schedule, integrator and noise.

Facts are musubi-tuner 0.3.4's (fpack_train_network.py and its frame_pack/): a shift of the schedule that depends on the
size alone, classifier-free guidance with `--l` other than 1, noise of all sections from one generator, images encoded
by drawing from the VAE's posterior.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from diffusers import AutoencoderKLHunyuanVideo
from PIL import Image
from torch import nn

from rushes.families.parameters import SampleParameters
from rushes.families.rows.framepack import FRAMEPACK
from rushes.families.spec import ArchitectureSpec
from rushes.wire.jobs import VaeOptions
from rushes.wire.models import ModelSpec
from rushes_service.lora.targets import NameTable, name_table, renamed
from rushes_service.models.base import Architecture, Denoised, OnStep
from rushes_service.models.conditioning import Conditioning, ConditioningCache
from rushes_service.models.encoders.llama_clip import HunyuanText
from rushes_service.models.encoders.siglip import IMAGE_PARTS, ImageEncoder, picture_digest
from rushes_service.models.framepack.decode import stream_sections
from rushes_service.models.framepack.sections import Clip, ForwardClip, InvertedClip
from rushes_service.models.framepack.source import find_framepack
from rushes_service.models.framepack.transformer import FramePackTransformer, Frames, History, Words
from rushes_service.models.framepack.unipc import sample_unipc
from rushes_service.models.hunyuan.decode import decode_hunyuan, encode_hunyuan
from rushes_service.models.hunyuan.names import ORIGINAL_NAMES
from rushes_service.models.inputs.images import check_images, fit, open_image, to_signed
from rushes_service.models.loading.files.hashes import FileHashCache
from rushes_service.models.loading.from_repo import Source, quiet_loading_bars
from rushes_service.models.vae.tiles import plan_tiles
from rushes_service.runtime.compat_diffusers_models import DiagonalGaussianDistribution
from rushes_service.runtime.devices import name_of
from rushes_service.runtime.float8 import precision

MU_BY_TOKENS = ((256, 0.5), (4096, 1.15))
"""Tokens, and the logarithm of the schedule's shift for so many; in between and beyond on a straight line."""

MAX_SHIFT = 7.0
LATENT_CHANNELS = 16
UNIT = 1000.0
"""Sigma and embedded guidance enter the model times this."""

FRAMES_AT_ONCE = 4
"""Decoded frames handed on together."""


class FramePackModel(Architecture):
    """What FramePack's two families share: all but which frames are made, and what is shown of others."""

    chunked = True

    def __init__(
        self, model: ModelSpec, device: torch.device, dtype: torch.dtype, file_hashes: FileHashCache | None = None
    ) -> None:
        super().__init__(model, device, dtype, file_hashes)
        self.source: Source = find_framepack(model, self.spec, self.file_hashes)
        # As in the reference, whatever the transformer's precision; half precision is slow on a CPU.
        self.side_dtype = torch.float16 if device.type == "cuda" else torch.float32
        self.usual_vae_dtype = self.side_dtype
        self._fingerprints: dict[tuple[str, ...], str] = {}
        self._transformer: Any = None
        self.vae: Any = None

    @classmethod
    def check(cls, parameters: SampleParameters) -> None:
        check_images([parameters.image_path or ""], "image_path")
        check_images(parameters.control_image_path, "control_image_path")

    def warnings(self, parameters: SampleParameters, vae: VaeOptions) -> tuple[str, ...]:
        warnings = []
        if tiles := plan_tiles(vae, parameters.width, parameters.height):
            warnings.append(f"encoded and decoded in tiles of {tiles.size} pixels: approximate at their seams")
        return tuple(warnings)

    def load(self) -> None:
        quiet_loading_bars()
        self._transformer = self.source.load(
            "transformer", FramePackTransformer, self.dtype, self.transformer_destination
        )
        self.vae = self.source.load("vae", AutoencoderKLHunyuanVideo, self.vae_dtype, self.destination)
        for part in (self._transformer, self.vae):
            part.to(self.device).eval().requires_grad_(False)

    @property
    def transformer(self) -> nn.Module:
        return self._transformer  # type: ignore[no-any-return]

    def lora_names(self) -> NameTable:
        # FramePack's release names modules as diffusers does; its LoRAs do, too. HunyuanVideo's fit as well.
        return name_table(self.transformer, lambda name: renamed(name, ORIGINAL_NAMES))

    @property
    def text_dtype(self) -> str:
        """Precision of the first text encoder."""
        return precision(self.side_dtype, float8=self.model.fp8_llm)

    def text_key(self, text: str) -> dict[str, Any]:
        """Cache key of a text's embeddings: `text` [1, n, dim], without padding, and `pooled` [1, dim]."""
        return {**self._key("framepack-text", HunyuanText.parts), "dtype": self.text_dtype, "text": text}

    def image_key(self, picture: np.ndarray) -> dict[str, Any]:
        """Cache key of the embedding of a picture, uint8 [H, W, 3]: `image` [1, n, dim]."""
        return {**self._key("siglip", IMAGE_PARTS), "picture": picture_digest(picture)}

    def _key(self, kind: str, parts: tuple[str, ...]) -> dict[str, Any]:
        if parts not in self._fingerprints:
            self._fingerprints[parts] = self.source.fingerprint(parts)
        return {"kind": kind, "files": self._fingerprints[parts], "dtype": name_of(self.side_dtype)}

    def encode(self, parameters: SampleParameters, cache: ConditioningCache) -> Conditioning:
        found = self._encode_texts(parameters, cache)
        picture = fit(open_image(parameters.image_path or "", "image_path"), parameters.width, parameters.height)
        with ImageEncoder(self.source, self.device, self.side_dtype, self.encoders) as encoder:
            found |= cache.get(self.image_key(picture), lambda: encoder.encode(picture))
        return {name: tensor.to(self.device, self.dtype) for name, tensor in found.items()}

    def _encode_texts(self, parameters: SampleParameters, cache: ConditioningCache) -> Conditioning:
        texts = {"": parameters.prompt}
        if parameters.negative_prompt is not None:
            texts["negative_"] = parameters.negative_prompt
        found: Conditioning = {}
        with HunyuanText(
            self.source, self.device, self.side_dtype, self.encoders, float8=self.model.fp8_llm
        ) as encoder:
            for prefix, text in texts.items():
                tensors = cache.get(self.text_key(text), lambda text=text: unpadded(encoder.encode(text)))
                found |= {prefix + name: tensor for name, tensor in tensors.items()}
        return found

    def posterior_sample(
        self, image: Image.Image, parameters: SampleParameters, vae: VaeOptions, generator: torch.Generator
    ) -> torch.Tensor:
        """Latents [1, 16, 1, h, w] of an image, in float32: drawn from the VAE's posterior, as the reference does."""
        picture = fit(image.convert("RGB"), parameters.width, parameters.height)
        pixels = to_signed(picture)[None, :, None].to(self.vae.device, self.vae.dtype)
        latents = drawn(encode_hunyuan(self.vae, pixels, vae), generator)
        return (latents * self.vae.config.scaling_factor).float()

    def generator(self, parameters: SampleParameters) -> torch.Generator:
        """A new generator. Images draw from one, noise from another of the same seed."""
        return self.noise_generator(parameters.seed)

    @torch.no_grad()
    def sample(
        self,
        noisy: Frames,
        history: History,
        conditioning: Conditioning,
        parameters: SampleParameters,
        on_step: Callable[[int, torch.Tensor], None],
    ) -> torch.Tensor:
        """Latents of some frames, denoised from `noisy` (float32); `on_step` is told steps done and the prediction."""
        history = history.to(self.dtype)
        guidance = torch.full((1,), (parameters.guidance_scale or 0.0) * UNIT, device=self.device, dtype=self.dtype)
        texts = [Words(*(conditioning[name] for name in ("text", "pooled", "image")))]
        if parameters.use_cfg:
            texts.append(Words(*(conditioning[name] for name in ("negative_text", "negative_pooled", "image"))))

        def predict(latents: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
            frames = Frames(latents.to(self.dtype), noisy.places)
            found = [self.transformer(frames, history, words, sigma * UNIT, guidance) for words in texts]
            velocity = found[0] if len(found) == 1 else found[1] + parameters.cfg_scale * (found[0] - found[1])
            # From the latents as the model saw them, rounded: so does the reference.
            return frames.latents.float() - velocity * sigma

        sigmas = shifted_sigmas(parameters.sample_steps, noisy.latents.shape)
        return sample_unipc(predict, noisy.latents, sigmas, on_step)

    def noise(self, frames: int, parameters: SampleParameters, generator: torch.Generator) -> torch.Tensor:
        """Noise [1, 16, frames, h, w] in float32."""
        shape = latents_shape(frames, parameters)
        return torch.randn(shape, generator=generator, device=generator.device).to(self.device)

    def facts(self, parameters: SampleParameters, frames: int) -> dict[str, Any]:
        """What the receipt says of the schedule and the precisions; `frames` latent frames are denoised at once."""
        sigmas = shifted_sigmas(parameters.sample_steps, latents_shape(frames, parameters))
        return {
            "scheduler": "UniPC (flow, bh1, order 3)",
            "sigmas": sigmas.tolist(),
            "vae_dtype": name_of(self.vae_dtype),
            "text_dtype": self.text_dtype,
        }

    def pixels(self, latents: torch.Tensor, vae: VaeOptions) -> torch.Tensor:
        """Pixels [1, 3, F, H, W], about -1..1, of latents [1, 16, T, h, w] that belong together."""
        unscaled = (latents / self.decoder.config.scaling_factor).to(self.decoder.device, self.decoder.dtype)
        return decode_hunyuan(self.decoder, unscaled, vae)


class FramePack(FramePackModel):
    """framepack: a clip from its first frame, section by section."""

    spec: ClassVar[ArchitectureSpec] = FRAMEPACK

    def sections(self, parameters: SampleParameters) -> int:
        """Sections of the clip."""
        return (parameters.frame_count - 1) // (self.spec.frame_stride * self.model.latent_window_size)

    def total_steps(self, parameters: SampleParameters) -> int:
        return parameters.sample_steps * self.sections(parameters)

    def encode_images(self, parameters: SampleParameters, conditioning: Conditioning, vae: VaeOptions) -> Conditioning:
        image = open_image(parameters.image_path or "", "image_path")
        start = self.posterior_sample(image, parameters, vae, self.generator(parameters))
        return {**conditioning, "start": start}

    def uses_masks(self, conditioning: Conditioning) -> bool:
        return False

    def denoise(self, parameters: SampleParameters, conditioning: Conditioning, on_step: OnStep) -> Denoised:
        window, total = self.model.latent_window_size, self.total_steps(parameters)
        kind = ForwardClip if self.model.f1 else InvertedClip
        clip: Clip = kind(conditioning["start"], self.sections(parameters), window)
        generator = self.generator(parameters)
        for number in range(clip.sections):
            places, history = clip.section(number)
            noisy = Frames(self.noise(window, parameters, generator), places)
            done = number * parameters.sample_steps

            def step_ended(step: int, latents: torch.Tensor, done: int = done) -> None:
                on_step(done + step, total, latents)

            clip.add(self.sample(noisy, history, conditioning, parameters, step_ended))
        facts = {"sections": clip.sections, "window": window, "f1": self.model.f1, **self.facts(parameters, window)}
        return Denoised(clip.latents(), facts)

    def decode(self, latents: torch.Tensor, vae: VaeOptions) -> Generator[torch.Tensor, None, None]:
        def decode(part: torch.Tensor) -> torch.Tensor:
            return self.pixels(part, vae)

        if vae.bulk_decode:
            clips = iter([decode(latents)])
        else:
            clips = stream_sections(decode, latents, self.model.latent_window_size)
        for clip in clips:
            for frames in clip[0].split(FRAMES_AT_ONCE, dim=1):
                yield (frames.float() / 2 + 0.5).clamp(0, 1)


def drawn(posterior: DiagonalGaussianDistribution, generator: torch.Generator) -> torch.Tensor:
    """A sample of the posterior: what the reference conditions on, where its mean would do as well."""
    return posterior.sample(generator)


def latents_shape(frames: int, parameters: SampleParameters) -> tuple[int, ...]:
    """Shape of so many latent frames: [1, 16, frames, h, w]."""
    return (1, LATENT_CHANNELS, frames, parameters.height // 8, parameters.width // 8)


def unpadded(text: Conditioning) -> Conditioning:
    """What `HunyuanText.encode` gives, without the padding and its mask: nothing in the model looks at it."""
    mask = text["prompt_attention_mask"][0].bool()
    return {"text": text["prompt_embeds"][:, mask], "pooled": text["pooled_prompt_embeds"]}


def shifted_sigmas(steps: int, shape: Sequence[int]) -> torch.Tensor:
    """Noise levels from 1 to 0, [steps + 1] in float32, for noise of `shape` [1, 16, T, h, w].

    The shift grows with the tokens that are denoised at once, as FLUX's does; `--fs` has no say.
    """
    tokens = shape[2] * shape[3] * shape[4] // 4
    (fewest, least), (most, greatest) = MU_BY_TOKENS
    mu = min(least + (tokens - fewest) * (greatest - least) / (most - fewest), math.log(MAX_SHIFT))
    return math.exp(mu) / (math.exp(mu) + (1 / torch.linspace(1, 0, steps + 1) - 1))
