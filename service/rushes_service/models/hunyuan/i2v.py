"""HunyuanVideo image to video (Tencent's), through diffusers' own pipeline: no trainer samples it otherwise.

There are two kinds of model. `latent_concat` (33 input channels) takes the picture's latents and a mask beside the
noise, and spends its first latent frame on the picture: four frames more are sampled and dropped. `token_replace`
(16 channels) keeps the first latent frame for the picture itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, HunyuanVideoImageToVideoPipeline
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image
from transformers import AutoTokenizer, CLIPImageProcessor, CLIPTextModel, LlavaForConditionalGeneration

from rushes._paths import absolute
from rushes.errors import ModelError, PromptError
from rushes.families.parameters import SampleParameters
from rushes.families.rows.hunyuan import HUNYUAN_VIDEO_I2V
from rushes.families.spec import ArchitectureSpec
from rushes.wire.jobs import VaeOptions
from rushes_service.models.base import Denoised, OnStep
from rushes_service.models.conditioning import Conditioning, ConditioningCache
from rushes_service.models.encoders.llama_clip import TEXT_PARTS, HunyuanText
from rushes_service.models.hunyuan.decode import encode_hunyuan
from rushes_service.models.hunyuan.t2v import LATENT_CHANNELS, NEGATIVE, HunyuanVideo
from rushes_service.models.inputs.images import check_images, open_image

CONCAT, TOKEN_REPLACE = "latent_concat", "token_replace"
CONCAT_FRAMES = 4
"""Frames that a `latent_concat` model makes of its first latent frame, which is the picture."""

INTERLEAVE = {CONCAT: 2, TOKEN_REPLACE: 4}
"""The transformer gets every n-th of the picture's 576 tokens beside the prompt's."""

NOISE_PART = 0.999
"""Of the first latents; the rest is the picture."""

PICTURE = "picture"
"""Key of the picture's latents [1, 16, 1, h, w] in a `Conditioning`."""

NEGATIVE_INTERLEAVE = 2
"""The pipeline encodes a negative prompt with its default, whatever the kind of model."""


class LlavaText(HunyuanText):
    """Llava and CLIP: the prompt is read together with the picture."""

    parts = (*TEXT_PARTS, "image_processor")

    def load(self) -> Any:
        return HunyuanVideoImageToVideoPipeline(
            tokenizer=self.part("tokenizer", AutoTokenizer),
            tokenizer_2=self.part("tokenizer_2", AutoTokenizer),
            image_processor=self.part("image_processor", CLIPImageProcessor),
            text_encoder=self.encoder("text_encoder", LlavaForConditionalGeneration, rounded=words_of),
            text_encoder_2=self.encoder("text_encoder_2", CLIPTextModel, rounded=None),
            vae=None,
            scheduler=None,
            transformer=None,
        )


def words_of(llava: Any) -> Any:
    """The language model in Llava."""
    return llava.model.language_model


class EncodedPicturePipeline(HunyuanVideoImageToVideoPipeline):
    """diffusers' pipeline with a picture that is encoded already: `picture`, latents [1, 16, 1, h, w] in float32.

    So the VAE is not needed while it denoises.
    """

    picture: torch.Tensor

    def prepare_latents(
        self,
        image: torch.Tensor,
        batch_size: int,
        num_channels_latents: int,
        height: int,
        width: int,
        num_frames: int,
        dtype: torch.dtype,
        device: torch.device,
        generator: torch.Generator,
        latents: None,
        image_condition_type: str,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Noise with a thousandth of the picture in it, and the picture itself, both [1, 16, T, h, w]."""
        frames = (num_frames - 1) // self.vae_scale_factor_temporal + 1
        pictures = self.picture.repeat(1, 1, frames, 1, 1)
        noise = randn_tensor(pictures.shape, generator=generator, device=device, dtype=dtype)
        part = torch.full((1,), NOISE_PART, device=device)
        return noise * part + pictures * (1 - part), self.picture if image_condition_type == TOKEN_REPLACE else pictures


class HunyuanVideoImageToVideo(HunyuanVideo):
    """hunyuan-video-i2v."""

    spec: ClassVar[ArchitectureSpec] = HUNYUAN_VIDEO_I2V
    pipelines = ("HunyuanVideoImageToVideoPipeline",)
    input_channels = (LATENT_CHANNELS, 2 * LATENT_CHANNELS + 1)

    @classmethod
    def check(cls, parameters: SampleParameters) -> None:
        super().check(parameters)
        check_images([str(parameters.image_path)], "image_path")
        if parameters.use_cfg and parameters.cfg_scale < 1:
            raise PromptError(f"--l {parameters.cfg_scale:g}: {cls.spec.name} guides only at scales above 1")

    def warnings(self, parameters: SampleParameters, vae: VaeOptions) -> tuple[str, ...]:
        picture = open_image(str(parameters.image_path), "image_path")
        warnings = list(super().warnings(parameters, vae))
        if picture.width * parameters.height != picture.height * parameters.width:
            warnings.append(
                f"--i is {picture.width}x{picture.height} and is stretched to {parameters.width}x{parameters.height}, "
                "as diffusers does: give sizes of its own proportions"
            )
        return tuple(warnings)

    def load(self) -> None:
        given = self.model.text_encoder1
        if given is not None and absolute(given).is_file():
            raise ModelError(
                f"--text_encoder1 {given} is a single file; {self.spec.name} reads the picture with its text encoder: "
                "give a directory of the whole Llava model, or leave the flag out to download it"
            )
        super().load()

    def untold(self, config: Mapping[str, Any]) -> dict[str, Any]:
        if config["in_channels"] == LATENT_CHANNELS:
            return {"image_condition_type": TOKEN_REPLACE}
        return {"image_condition_type": CONCAT}

    @property
    def kind(self) -> str:
        """How the picture enters the transformer: "latent_concat" or "token_replace"."""
        return str(self.transformer.config.image_condition_type)

    @property
    def spare_frames(self) -> int:
        return CONCAT_FRAMES if self.kind == CONCAT else 0

    def encode(self, parameters: SampleParameters, cache: ConditioningCache) -> Conditioning:
        picture = open_image(str(parameters.image_path), "image_path")
        pairs = {"": (parameters.prompt, picture, INTERLEAVE[self.kind])}
        if parameters.negative_prompt is not None:
            black = Image.new("RGB", (parameters.width, parameters.height))
            pairs[NEGATIVE] = (parameters.negative_prompt, black, NEGATIVE_INTERLEAVE)
        conditioning = {}
        with LlavaText(self.source, self.device, self.side_dtype, self.encoders, float8=self.model.fp8_llm) as encoder:
            for prefix, pair in pairs.items():
                tensors = cache.get(self.pair_key(*pair), lambda pair=pair: encode_pair(encoder, *pair))
                conditioning |= {prefix + name: tensor.to(self.device) for name, tensor in tensors.items()}
        return conditioning

    def pair_key(self, text: str, picture: Image.Image, interleave: int) -> dict[str, Any]:
        """Cache key of a text's embeddings beside a picture."""
        if self._text_files is None:
            self._text_files = self.source.fingerprint(LlavaText.parts)
        content = hashlib.sha256(repr(picture.size).encode() + picture.tobytes()).hexdigest()
        about = {"kind": "hunyuan-i2v", "files": self._text_files, "dtype": self.text_dtype, "text": text}
        return {**about, "image": content, "interleave": interleave}

    def encode_images(self, parameters: SampleParameters, conditioning: Conditioning, vae: VaeOptions) -> Conditioning:
        picture = open_image(str(parameters.image_path), "image_path")
        pixels = self.image_pipeline(1.0).video_processor.preprocess(picture, parameters.height, parameters.width)
        pixels = pixels[:, :, None].to(self.vae.device, self.vae.dtype)
        posterior = encode_hunyuan(self.vae, pixels, VaeOptions(chunk_size=vae.chunk_size))
        return {**conditioning, PICTURE: posterior.mode().float() * self.vae.config.scaling_factor}

    def denoise(self, parameters: SampleParameters, conditioning: Conditioning, on_step: OnStep) -> Denoised:
        total = parameters.sample_steps
        latents = torch.empty(0)

        def step_ended(_pipe: Any, index: int, _timestep: Any, tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
            nonlocal latents
            latents = tensors["latents"]
            on_step(index + 1, total, latents)
            return {}

        pipe = self.image_pipeline(parameters.discrete_flow_shift or 1.0)
        texts = dict(self.unpadded(conditioning))
        pipe.picture = texts.pop(PICTURE)
        # The pipeline's own result lacks the picture's latent frame, without which the rest cannot be decoded.
        pipe(
            image=open_image(str(parameters.image_path), "image_path"),
            **texts,
            width=parameters.width,
            height=parameters.height,
            num_frames=parameters.frame_count + self.spare_frames,
            num_inference_steps=total,
            guidance_scale=parameters.guidance_scale if self.guided else 1.0,
            true_cfg_scale=parameters.cfg_scale,
            generator=self.noise_generator(parameters.seed),
            output_type="latent",
            callback_on_step_end=step_ended,
        )
        facts = {"scheduler": "Euler (flow)", "sigmas": pipe.scheduler.sigmas.tolist(), **self.dtype_facts()}
        return Denoised(latents, {**facts, "image_condition": self.kind, "dropped_frames": self.spare_frames})

    def image_pipeline(self, shift: float) -> EncodedPicturePipeline:
        """The pipeline around the loaded parts, without text encoders."""
        encoders = dict.fromkeys((*TEXT_PARTS, "image_processor"))
        scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
        pipe = EncodedPicturePipeline(transformer=self.transformer, vae=self.vae, scheduler=scheduler, **encoders)
        pipe.set_progress_bar_config(disable=True)
        return pipe


def encode_pair(encoder: LlavaText, text: str, picture: Image.Image, interleave: int) -> Conditioning:
    """Embeddings of a text beside a picture."""
    return encoder.encode(text, image=picture, image_embed_interleave=interleave)
