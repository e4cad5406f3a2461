"""Small samples, and guidance, in one batch: a GPU spends more time on launching their kernels than on computing.

Numbers of a batch are those made one by one but for rounding: a device may compute a larger product in another order.
"""

from __future__ import annotations

import contextlib
from abc import abstractmethod
from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import nn

from rushes.families.parameters import SampleParameters
from rushes_service.models.base import Architecture, Denoised, OnStep, Sample
from rushes_service.models.conditioning import Conditioning
from rushes_service.settings import Batching

MOST_TOKENS = 4096
"""Of one call of a transformer whose layers have `LAYER_WEIGHTS` weights.

A layer's product takes two operations for each weight and token: here 35 GFLOP, which take an H100 some 60 us. That is
about what launching it takes, with the small kernels around it. Larger layers hide that with fewer tokens."""

LAYER_WEIGHTS = 4_300_000
"""On average, of Wan's transformer of 1.3 billion weights."""

MOST_SAMPLES = 8
"""In one batch."""


def most_tokens(batching: Batching, device: torch.device, transformer: nn.Module) -> int:
    """Tokens that are to go through a transformer together at most; 0 if samples are made one by one."""
    if batching == "off" or (batching == "auto" and device.type != "cuda"):
        return 0
    layers = [parameter.numel() for parameter in transformer.parameters() if parameter.ndim > 1]
    return int(MOST_TOKENS * min(1.0, LAYER_WEIGHTS * len(layers) / sum(layers)))


class BatchedArchitecture(Architecture):
    """A family whose small samples can be denoised in one batch, each with its own texts and noise."""

    own_inputs: ClassVar[frozenset[str]]
    """What of the conditioning each sample of a batch has for itself. One with more, as a picture, is made alone."""

    @abstractmethod
    def token_count(self, parameters: SampleParameters, conditioning: Conditioning) -> int:
        """Tokens of one sample that go through all of the transformer in one call, guidance not counted."""

    def guides(self, parameters: SampleParameters, conditioning: Conditioning) -> bool:
        """True if each step also computes the negative prompt."""
        return False

    def text_shapes(self, conditioning: Conditioning) -> Hashable:
        """What the texts of one batch have in common."""
        return tuple((name, conditioning[name].shape) for name in sorted(conditioning))

    def batch_key(self, parameters: SampleParameters, conditioning: Conditioning) -> Hashable:
        if conditioning.keys() - self.own_inputs:
            return None
        return parameters.model_dump_json(exclude={"seed", "prompt", "negative_prompt"}), self.text_shapes(conditioning)

    @property
    def most_tokens(self) -> int:
        """Tokens in one call at most."""
        return most_tokens(self.batching, self.device, self.transformer)

    def most_together(self, parameters: SampleParameters, conditioning: Conditioning) -> int:
        each = self.token_count(parameters, conditioning) * (2 if self.guides(parameters, conditioning) else 1)
        return max(1, min(MOST_SAMPLES, self.most_tokens // each))

    def guides_at_once(self, samples: Sequence[Sample]) -> bool:
        """True if prompts and negative prompts of `samples` are to go through the transformer in one call."""
        first, *_ = samples
        return self.guides(*first) and 2 * len(samples) * self.token_count(*first) <= self.most_tokens

    def denoise(self, parameters: SampleParameters, conditioning: Conditioning, on_step: OnStep) -> Denoised:
        (made,) = self.denoise_together([(parameters, conditioning)], on_step)
        return made

    def denoise_together(self, samples: Sequence[Sample], on_step: OnStep) -> list[Denoised]:
        at_once = self.guides_at_once(samples)
        made = self.denoise_all(samples, on_step, at_once=at_once)
        if at_once:
            made = replace(made, facts={**made.facts, "guidance": "in one batch"})
        if len(samples) == 1:
            return [made]
        return [replace(made, latents=latents.clone()) for latents in made.latents.chunk(len(samples))]

    @abstractmethod
    def denoise_all(self, samples: Sequence[Sample], on_step: OnStep, *, at_once: bool) -> Denoised:
        """Latents of samples that differ in `own_inputs` and noise alone, behind each other.

        Args:
            at_once: compute prompts and negative prompts in one call.
        """


def stacked(samples: Sequence[Sample]) -> Conditioning:
    """The conditioning of all samples behind each other."""
    (_, first), *others = samples
    if not others:
        return first
    return {name: torch.cat([conditioning[name] for _, conditioning in samples]) for name in first}


def padded(texts: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Texts [1, n, ...] of any lengths behind each other, with zeros behind each, and which tokens count [k, longest].

    A single one is as it was.
    """
    embeds = nn.utils.rnn.pad_sequence([text[0] for text in texts], batch_first=True)
    lengths = torch.tensor([text.shape[1] for text in texts], device=embeds.device)
    return embeds, torch.arange(embeds.shape[1], device=embeds.device) < lengths[:, None]


@contextlib.contextmanager
def guided_at_once(
    transformer: nn.Module, texts: Mapping[str, torch.Tensor | None], once: Collection[str] = ()
) -> Iterator[None]:
    """Inside, `transformer` computes both calls of a step at the first, in one batch, and remembers the second answer.

    Pipelines call it with the prompts' embeddings, then, with all else the same, with the negative ones.

    Args:
        texts: what differs between both calls, by the transformer's arguments: prompts, negative prompts behind them.
        once: arguments that have no dimension of samples.
    """
    forward, replaced, kept = transformer.forward, "forward" in vars(transformer), list[torch.Tensor]()

    def both(**inputs: Any) -> tuple[torch.Tensor]:
        if kept:
            return (kept.pop(),)
        shared = {name: value if name in once else twice(value) for name, value in inputs.items()}
        own = {name: like(inputs[name], text) for name, text in texts.items()}
        guided, unguided = forward(**{**shared, **own})[0].chunk(2)
        kept.append(unguided)
        return (guided,)

    transformer.forward = both
    try:
        yield
    finally:
        if replaced:
            transformer.forward = forward
        else:
            del transformer.forward


def twice(value: Any) -> Any:
    """A tensor, twice along its first dimension; anything else as it is."""
    return torch.cat([value, value]) if isinstance(value, torch.Tensor) else value


def like(given: torch.Tensor | None, text: torch.Tensor | None) -> torch.Tensor | None:
    """`text` in the precision that the pipeline gives it."""
    return text if given is None or text is None else text.to(given.dtype)
