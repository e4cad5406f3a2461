"""What families share whose loop of denoising is our own: guidance, in one call of the transformer or in two."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch

from rushes.families.parameters import SampleParameters
from rushes_service.models.base import Sample
from rushes_service.models.batching import BatchedArchitecture, twice
from rushes_service.models.conditioning import Conditioning

NEGATIVE = "negative_"
"""What the names of a negative prompt's conditioning begin with."""


class OwnLoopArchitecture(BatchedArchitecture):
    """A family that calls its transformer itself, and masks no texts: those of one batch have as many tokens."""

    texts: ClassVar[tuple[str, ...]]
    """Names of a prompt's conditioning."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.own_inputs = frozenset(f"{prefix}{name}" for prefix in ("", NEGATIVE) for name in cls.texts)

    def guides(self, parameters: SampleParameters, conditioning: Conditioning) -> bool:
        return parameters.use_cfg

    def guides_at_once(self, samples: Sequence[Sample]) -> bool:
        return super().guides_at_once(samples) and all(alike(conditioning) for _, conditioning in samples)

    def guiding_scale(self, parameters: SampleParameters) -> float:
        """Scale of classifier-free guidance."""
        return parameters.cfg_scale

    @abstractmethod
    def predict(
        self, latents: torch.Tensor, sigma: torch.Tensor, conditioning: Conditioning, parameters: SampleParameters
    ) -> torch.Tensor:
        """One call of the transformer, at the noise level `sigma` [], for the texts called `texts`."""

    def velocity(
        self,
        latents: torch.Tensor,
        sigma: torch.Tensor,
        conditioning: Conditioning,
        parameters: SampleParameters,
        *,
        at_once: bool,
    ) -> torch.Tensor:
        """What the transformer predicts at `sigma`, guided if it is to be: the shape of `latents`."""
        prompt, other = with_negative(conditioning)
        if not parameters.use_cfg:
            return self.predict(latents, sigma, prompt, parameters)
        if at_once:
            both = {name: torch.cat([tensor, other[name]]) for name, tensor in prompt.items()}
            guided, negative = self.predict(twice(latents), sigma, both, parameters).chunk(2)
        else:
            guided, negative = (self.predict(latents, sigma, texts, parameters) for texts in (prompt, other))
        return negative + self.guiding_scale(parameters) * (guided - negative)


def with_negative(conditioning: Conditioning) -> tuple[Conditioning, Conditioning]:
    """What a call for the prompt is given, and one for the negative prompt."""
    prompt = {name: tensor for name, tensor in conditioning.items() if not name.startswith(NEGATIVE)}
    return prompt, {name: conditioning.get(f"{NEGATIVE}{name}", tensor) for name, tensor in prompt.items()}


def alike(conditioning: Conditioning) -> bool:
    """True if prompt and negative prompt have as many tokens."""
    prompt, negative = with_negative(conditioning)
    return all(tensor.shape == negative[name].shape for name, tensor in prompt.items())
