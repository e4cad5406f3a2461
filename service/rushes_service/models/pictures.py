"""What families of single pictures share: how they are loaded, encoded and shown. Each adds its sampling."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

import torch
from torch import nn

from rushes.families.parameters import SampleParameters
from rushes.families.spec import ArchitectureSpec
from rushes.wire.jobs import VaeOptions
from rushes.wire.models import ModelSpec
from rushes_service.lora.targets import NameTable, name_table, renamed
from rushes_service.models.base import OnStep, Sample
from rushes_service.models.batching import BatchedArchitecture, guided_at_once, padded
from rushes_service.models.conditioning import Conditioning, ConditioningCache
from rushes_service.models.encoder import LazyEncoder
from rushes_service.models.loading.files.hashes import FileHashCache
from rushes_service.models.loading.from_files import find_source
from rushes_service.models.loading.from_repo import Source, quiet_loading_bars
from rushes_service.models.vae.kl import plan_kl_tiles
from rushes_service.models.vae.tiles import TilePlan
from rushes_service.runtime.devices import name_of
from rushes_service.runtime.float8 import precision

PROMPT, NEGATIVE = "prompt_embeds", "negative_prompt_embeds"
TEXTS: Mapping[str, str] = {PROMPT: "prompt", NEGATIVE: "negative_prompt"}
"""The pipelines' arguments, and the prompts that they are embeddings of."""

PATCH = 16
"""Pixels per side of one token, in every family."""

TEXT_STEP = 64
"""Tokens: texts of one batch, where they are padded, are of the same number of these."""


class PictureArchitecture(BatchedArchitecture):
    """A family that makes single pictures through a pipeline of diffusers: a transformer, a VAE, one encoder of text.

    A family of other encoders brings its own `text_key` and `encode`.
    """

    called: ClassVar[str]
    """The family's name in messages."""

    pipelines: ClassVar[tuple[str, ...]]
    """Classes that `model_index.json` may name."""

    transformer_class: ClassVar[Any]
    vae_class: ClassVar[Any]

    usual_vae_dtype = torch.float32
    """Whatever the transformer's precision: bfloat16, in which some references decode, shows in flat areas."""

    original_names: ClassVar[Sequence[tuple[re.Pattern[str], str]]] = ()
    """What modules are called in the model's own release, where it is not as in diffusers."""

    text_class: ClassVar[type[LazyEncoder]]
    text_kind: ClassVar[str]
    """Of the embeddings in the cache: other families with the same encoder may embed a text otherwise."""

    text_float8: ClassVar[str | None] = None
    """The field of `ModelSpec` that asks for the encoder in float8."""

    own_inputs = frozenset(TEXTS)

    text_mask: ClassVar[str | None] = None
    """The transformer's argument for which tokens of padded texts count; None if texts are of one length."""

    text_axis: ClassVar[int] = 1
    """Of embeddings: the dimension of tokens."""

    unsampled: ClassVar[tuple[str, ...]] = ()
    """The transformer's arguments without a dimension of samples."""

    def __init__(
        self, model: ModelSpec, device: torch.device, dtype: torch.dtype, file_hashes: FileHashCache | None = None
    ) -> None:
        super().__init__(model, device, dtype, file_hashes)
        spec, components = self.published_as(), ("transformer", "vae")
        self.source: Source = find_source(model, spec, self.pipelines, components, self.file_hashes)
        self._text_files: str | None = None
        self._pipe: Any = None

    def published_as(self) -> ArchitectureSpec:
        """The family, with the repository that this version of it is published in."""
        return self.spec

    @property
    def version(self) -> str:
        """Which of the published models it is, in a family of several."""
        return self.model.model_version or self.spec.versions[0]

    def warnings(self, parameters: SampleParameters, vae: VaeOptions) -> tuple[str, ...]:
        warnings = []
        if vae.chunk_size is not None:
            warnings.append(f"--vae_chunk_size changes nothing for {self.called}: its pictures have no time to split")
        if tiles := self.plan_tiles(vae, parameters.width, parameters.height):
            warnings.append(f"decoded in tiles of {tiles.size} pixels: approximate at their seams")
        return tuple(warnings)

    def plan_tiles(self, vae: VaeOptions, width: int, height: int) -> TilePlan | None:
        """The tiles that a picture of that size is decoded in; None for a whole one."""
        return plan_kl_tiles(vae, width, height)

    def load(self) -> None:
        quiet_loading_bars()
        model = self.source.load(
            "transformer",
            self.transformer_class,
            self.dtype,
            self.transformer_destination,
            **self.transformer_options(),
        )
        self.check_config(model.config)
        coder = self.source.load("vae", self.vae_class, self.vae_dtype, self.destination)
        for part in (model, coder):
            part.requires_grad_(False).to(self.device).eval()
        self._pipe = self.pipeline(transformer=model, vae=coder)
        self._pipe.set_progress_bar_config(disable=True)

    def transformer_options(self) -> dict[str, Any]:
        """What the family knows of its transformer and single files do not tell."""
        return {}

    def check_config(self, config: Any) -> None:  # most families have but one kind
        """Raise `ModelError` unless a transformer of this configuration is of this family."""

    @abstractmethod
    def pipeline(self, **parts: Any) -> Any:
        """The pipeline around a transformer and a VAE, without text encoder."""

    @property
    def transformer(self) -> nn.Module:
        return self._pipe.transformer  # type: ignore[no-any-return]

    @property
    def vae(self) -> Any:
        """The loaded VAE."""
        return self._pipe.vae

    def lora_names(self) -> NameTable:
        return name_table(self.transformer, lambda name: renamed(name, self.original_names))

    def text_key(self, text: str) -> dict[str, Any]:
        """Cache key of a text's embedding, see `encode` of `text_class`."""
        dtype = precision(self.dtype, float8=self.encodes_in_float8)
        return {"kind": self.text_kind, "files": self.text_files(self.text_class.parts), "dtype": dtype, "text": text}

    def text_files(self, parts: Iterable[str]) -> str:
        """Content identity of what texts are encoded with."""
        if self._text_files is None:
            self._text_files = self.source.fingerprint(tuple(parts))
        return self._text_files

    @property
    def encodes_in_float8(self) -> bool:
        """True if the text encoder is asked for in float8."""
        return self.text_float8 is not None and bool(getattr(self.model, self.text_float8))

    def encode(self, parameters: SampleParameters, cache: ConditioningCache) -> Conditioning:
        lent: Any = self.text_class(self.source, self.device, self.dtype, self.encoders, float8=self.encodes_in_float8)
        found = {}
        with lent as encoder:
            for name, text in texts(parameters).items():
                embeds = cache.get(self.text_key(text), lambda text=text: encoder.encode(text))["embeds"]
                found[name] = embeds.to(self.device, self.dtype)
        return found

    def token_count(self, parameters: SampleParameters, conditioning: Conditioning) -> int:
        picture = (parameters.width // PATCH) * (parameters.height // PATCH) * (parameters.layers or 1)
        return picture + self.shown_tokens(conditioning) + self.text_tokens(conditioning)

    def shown_tokens(self, conditioning: Conditioning) -> int:
        """Tokens of the pictures that the transformer is shown."""
        return 0

    def text_tokens(self, conditioning: Conditioning) -> int:
        """Tokens of the longest text, as it is padded at most."""
        longest = max(conditioning[name].shape[self.text_axis] for name in TEXTS if name in conditioning)
        return -(-longest // TEXT_STEP) * TEXT_STEP

    def text_shapes(self, conditioning: Conditioning) -> Hashable:
        return tuple(sorted(conditioning)), self.text_tokens(conditioning)

    @abstractmethod
    def noise(self, parameters: SampleParameters) -> torch.Tensor:
        """What denoising a sample starts from, on the device that noise is drawn on."""

    def noises(self, samples: Sequence[Sample]) -> torch.Tensor:
        """What denoising starts from."""
        return torch.cat([self.noise(parameters) for parameters, _ in samples]).to(self.device)

    def padded_texts(self, samples: Sequence[Sample], *, at_once: bool) -> Conditioning:
        """Embeddings, and which of their tokens count, as a pipeline takes them.

        Args:
            at_once: prompts and negative prompts are of one length.
        """
        (_, first), *_ = samples
        names, found = [name for name in TEXTS if name in first], dict[str, torch.Tensor]()
        for group in (names,) if at_once else ((name,) for name in names):
            embeds, valid = padded([conditioning[name] for name in group for _, conditioning in samples])
            found |= zip(group, embeds.chunk(len(group)), strict=True)
            found |= zip((f"{name}_mask" for name in group), valid.chunk(len(group)), strict=True)
        return found

    def guided(self, texts: Conditioning, *, at_once: bool) -> AbstractContextManager[None]:
        """Inside, the transformer computes guidance `at_once`; `texts` are those of the pipeline."""
        if not at_once:
            return nullcontext()
        both: dict[str, torch.Tensor | None] = {"encoder_hidden_states": torch.cat([texts[PROMPT], texts[NEGATIVE]])}
        if self.text_mask is not None:
            valid = torch.cat([texts[f"{PROMPT}_mask"], texts[f"{NEGATIVE}_mask"]])
            both[self.text_mask] = None if valid.all() else valid
        return guided_at_once(self.transformer, both, self.unsampled)

    def facts(self, sigmas: torch.Tensor) -> dict[str, Any]:
        """What the receipt says about the sampler."""
        return {"scheduler": "Euler (flow)", "sigmas": sigmas.tolist(), "vae_dtype": name_of(self.vae_dtype)}


def texts(parameters: SampleParameters) -> dict[str, str]:
    """The prompts that are to be encoded, by the pipelines' arguments."""
    asked = {name: getattr(parameters, field) for name, field in TEXTS.items()}
    return {name: text for name, text in asked.items() if text is not None}


def step_callback(on_step: OnStep, total: int) -> Callable[..., dict[str, Any]]:
    """`on_step` as pipelines call it after each of `total` steps."""

    def ended(_pipe: Any, index: int, _timestep: Any, tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
        on_step(index + 1, total, tensors["latents"])
        return {}

    return ended


def picture(pixels: torch.Tensor) -> torch.Tensor:
    """The one picture [C, 1, H, W] in 0..1 of a VAE's pixels [1, C, H, W] in -1..1."""
    return (pixels.float()[0, :, None] / 2 + 0.5).clamp(0, 1)
