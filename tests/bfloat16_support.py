"""Recordings of the reference in bfloat16, compared one call of the transformer at a time.

Rounding adds up over the steps of a sample until it hides mistakes. So each call is also given the latents that the
reference's own call was given.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from golden_support import Case
from rushes.wire.models import ModelSpec
from rushes_service.engine.engine import Engine
from rushes_service.models.registry import find


@dataclass(frozen=True)
class Recording:
    """One run: latents before each call [calls, ...], what was made of them (guided) [calls, ...], and the sample."""

    inputs: torch.Tensor
    predictions: torch.Tensor
    final_latents: torch.Tensor


def recording(case: Case, run: str = "") -> Recording:
    """What `bfloat16.safetensors` holds of a run."""
    tensors = case.tensors("bfloat16")
    return Recording(*(tensors[run + name] for name in ("inputs", "predictions", "final_latents")))


def mean_difference(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """The mean of absolute differences, of two tensors of one shape."""
    assert found.shape == wanted.shape
    return float((found.float() - wanted).abs().mean())


def in_bfloat16(engine: Engine, model: ModelSpec, texts: list[str]) -> ModelSpec:
    """`model` in bfloat16, for which the cache of `engine` then holds the embeddings of `texts`, too."""
    rounded = model.model_copy(update={"dtype": "bfloat16"})
    exact = find(model.architecture)(model, engine.device, torch.float32)
    base = find(model.architecture)(rounded, engine.device, torch.bfloat16)
    for text in texts:
        engine.conditioning.write(base.text_key(text), engine.conditioning.read(exact.text_key(text)))
    return rounded


class FedScheduler:
    """Replaces a scheduler's `step`: keeps what the transformer made, and goes on with the recorded latents."""

    def __init__(self, recorded: Recording) -> None:
        self._recorded = recorded
        self.predictions: list[torch.Tensor] = []

    def step(self, output: torch.Tensor, _timestep: object, sample: torch.Tensor, **_options: object) -> tuple:
        self.predictions.append(output.float())
        inputs = self._recorded.inputs[len(self.predictions) :][:1]
        return (inputs.to(sample) if len(inputs) else sample,)
