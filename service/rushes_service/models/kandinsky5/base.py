"""What Kandinsky 5 for clips and for pictures share, through diffusers' transformer, sampled as the reference does.

Facts are musubi-tuner 0.3.4's (kandinsky5_train_network.py, kandinsky5/generation_utils.py): the task says shift and
rotary scale, noise is drawn channels last in one draw, Euler steps. The loop is our own: diffusers' pipelines choose
the rotary scale by the size of the sample, and treat a start image otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, ClassVar

import torch
from diffusers import Kandinsky5Transformer3DModel
from torch import nn

from rushes.families.parameters import SampleParameters
from rushes.families.spec import ArchitectureSpec
from rushes.wire.jobs import VaeOptions
from rushes.wire.models import ModelSpec
from rushes_service.lora.targets import NameTable, name_table
from rushes_service.models.base import Denoised, OnStep, Sample
from rushes_service.models.batching import stacked
from rushes_service.models.conditioning import Conditioning, ConditioningCache
from rushes_service.models.kandinsky5.attention import keep_precision
from rushes_service.models.kandinsky5.tasks import TASKS, Task
from rushes_service.models.kandinsky5.text import Kandinsky5Text
from rushes_service.models.loading.files.hashes import FileHashCache
from rushes_service.models.loading.from_files import find_source
from rushes_service.models.loading.from_repo import Source, quiet_loading_bars
from rushes_service.models.own_loop import NEGATIVE, OwnLoopArchitecture
from rushes_service.models.vae.tiles import TilePlan
from rushes_service.runtime.devices import name_of
from rushes_service.runtime.float8 import precision

SPATIAL_RATIO, TEMPORAL_RATIO = 8, 4
TRAIN_TIMESTEPS = 1000.0
START = "start"
"""Key of the start image's latents, [1, 1, h, w, C]."""


class Kandinsky5(OwnLoopArchitecture):
    """Kandinsky 5 of any kind; a subclass says which VAE it has."""

    pipelines: ClassVar[tuple[str, ...]]
    vae_class: ClassVar[Any]
    vae_dtype_on_card: ClassVar[torch.dtype]
    text_tokens: ClassVar[int]
    """Of a prompt; others are cut off."""

    blocks = ("visual_transformer_blocks", "text_transformer_blocks")
    texts = ("embeds", "pooled")

    def __init__(
        self, model: ModelSpec, device: torch.device, dtype: torch.dtype, file_hashes: FileHashCache | None = None
    ) -> None:
        super().__init__(model, device, dtype, file_hashes)
        self.version = model.model_version or self.spec.versions[0]
        self.task: Task = TASKS[self.version]
        spec: ArchitectureSpec = replace(self.spec, hub_id=self.task.hub_id)
        self.source: Source = find_source(model, spec, self.pipelines, ("transformer", "vae"), self.file_hashes)
        # Whatever the transformer's precision; half precision is slow on a CPU.
        self.usual_vae_dtype = self.vae_dtype_on_card if device.type == "cuda" else torch.float32
        self._text_files: str | None = None
        self._transformer: Any = None
        self.vae: Any = None

    def warnings(self, parameters: SampleParameters, vae: VaeOptions) -> tuple[str, ...]:
        warnings = []
        if tiles := self.plan_tiles(parameters, vae):
            warnings.append(f"decoded in tiles of {tiles.size} pixels: approximate at their seams")
        if self.transformer.config.attention_type != "regular" and not self.task.sparse:
            warnings.append(
                f"the transformer is published with sparse attention ({self.transformer.config.attention_type}), and "
                f"sampled with full attention, as for {self.version}"
            )
        return tuple(warnings)

    def plan_tiles(self, parameters: SampleParameters, vae: VaeOptions) -> TilePlan | None:
        """The tiles that a sample is decoded in; None if it is decoded whole."""
        raise NotImplementedError

    def load(self) -> None:
        quiet_loading_bars()
        self._transformer = self.source.load(
            "transformer", Kandinsky5Transformer3DModel, self.dtype, self.transformer_destination
        )
        keep_precision(self._transformer)
        self.vae = self.source.load("vae", self.vae_class, self.vae_dtype, self.destination)
        for part in (self._transformer, self.vae):
            part.to(self.device).eval().requires_grad_(False)

    @property
    def transformer(self) -> nn.Module:
        return self._transformer  # type: ignore[no-any-return]

    def lora_names(self) -> NameTable:
        return name_table(self.transformer, lambda name: name)

    def text_key(self, text: str, *, picture: bool = False) -> dict[str, Any]:
        """Cache key of a text's embeddings, see `Kandinsky5Text.encode`."""
        if self._text_files is None:
            self._text_files = self.source.fingerprint(Kandinsky5Text.parts)
        about = {"picture": picture, "most": self.text_tokens}
        dtype = precision(self.dtype, float8=False)
        return {"kind": "kandinsky5", "files": self._text_files, "dtype": dtype, "text": text, **about}

    def encode(self, parameters: SampleParameters, cache: ConditioningCache) -> Conditioning:
        texts = {"": parameters.prompt}
        if parameters.negative_prompt is not None:
            texts[NEGATIVE] = parameters.negative_prompt
        about = {"picture": parameters.frame_count == 1}
        found = {}
        with Kandinsky5Text(self.source, self.device, self.dtype, self.encoders) as encoder:
            for prefix, text in texts.items():
                tensors = cache.get(
                    self.text_key(text, **about),
                    lambda text=text: encoder.encode(text, **about, most=self.text_tokens),
                )
                found |= {prefix + name: tensor.to(self.device, self.dtype) for name, tensor in tensors.items()}
        return found

    def token_count(self, parameters: SampleParameters, conditioning: Conditioning) -> int:
        _, frames, rows, columns, _ = self.latents_shape(parameters)
        return frames * rows * columns // math.prod(self.transformer.config.patch_size)

    @torch.no_grad()
    def denoise_all(self, samples: Sequence[Sample], on_step: OnStep, *, at_once: bool) -> Denoised:
        (parameters, _), *_ = samples
        conditioning = stacked(samples)
        total, start = parameters.sample_steps, conditioning.get(START)
        sigmas = flow_sigmas(total, self.model.scheduler_scale or self.task.flow_shift)
        latents = torch.cat([self.noise(each) for each, _ in samples])
        for done, (sigma, following) in enumerate(pairwise(sigmas.to(self.device)), start=1):
            if start is not None:
                latents = torch.cat([start.to(latents), latents[:, 1:]], dim=1)
            velocity = self.velocity(latents, sigma, conditioning, parameters, at_once=at_once)
            latents = latents + (following - sigma) * velocity
            on_step(done, total, latents)
        facts = {"scheduler": "Euler (flow)", "sigmas": sigmas.tolist(), "vae_dtype": name_of(self.vae_dtype)}
        return Denoised(latents.permute(0, 4, 1, 2, 3).contiguous(), facts)

    def noise(self, parameters: SampleParameters) -> torch.Tensor:
        """Noise [1, T, h, w, 16], drawn at once in the transformer's precision; float32."""
        generator, shape = self.noise_generator(parameters.seed), self.latents_shape(parameters)
        drawn = torch.randn(shape, generator=generator, device=generator.device, dtype=self.dtype)
        return drawn.to(self.device).float()

    def latents_shape(self, parameters: SampleParameters) -> tuple[int, ...]:
        """Shape of a sample's latents, [1, T, h, w, 16]."""
        frames = (parameters.frame_count - 1) // TEMPORAL_RATIO + 1
        rows, columns = parameters.height // SPATIAL_RATIO, parameters.width // SPATIAL_RATIO
        return 1, frames, rows, columns, self.transformer.config.out_visual_dim

    def guiding_scale(self, parameters: SampleParameters) -> float:
        return parameters.guidance_scale or 1.0

    def predict(
        self, latents: torch.Tensor, sigma: torch.Tensor, conditioning: Conditioning, parameters: SampleParameters
    ) -> torch.Tensor:
        text = conditioning["embeds"]
        return self.transformer(  # type: ignore[no-any-return]
            hidden_states=self.inputs(latents, conditioning.get(START)).to(self.dtype),
            encoder_hidden_states=text,
            pooled_projections=conditioning["pooled"],
            timestep=(sigma * TRAIN_TIMESTEPS).expand(len(latents)),
            visual_rope_pos=places(latents, self.transformer.config.patch_size),
            text_rope_pos=torch.arange(text.shape[1], device=self.device),
            scale_factor=self.task.scale_factor,
            return_dict=False,
        ).float()

    def inputs(self, latents: torch.Tensor, start: torch.Tensor | None) -> torch.Tensor:
        """`latents`, with what the transformer is shown beside them: the start image and which frame that is."""
        if not self.transformer.config.visual_cond:
            return latents
        shown, mask = torch.zeros_like(latents), torch.zeros_like(latents[..., :1])
        if start is not None:
            shown[:, :1] = start
            mask[:, :1] = 1.0
        return torch.cat([latents, shown, mask], dim=-1)


def places(latents: torch.Tensor, patch: Sequence[int]) -> list[torch.Tensor]:
    """Places in time, rows and columns of the tokens of `latents` [n, T, h, w, C]."""
    sizes = (size // side for size, side in zip(latents.shape[1:4], patch, strict=True))
    return [torch.arange(size, device=latents.device) for size in sizes]


def flow_sigmas(steps: int, shift: float) -> torch.Tensor:
    """Noise levels of `steps` steps from 1 to 0, [steps + 1], float32."""
    even = torch.linspace(1, 0, steps + 1)
    return shift * even / (1 + (shift - 1) * even)
