"""When small samples are denoised in one batch: a GPU spends more time on launching their kernels than on computing.

Numbers of a batch are those made one by one but for rounding: a device may compute a larger product in another order.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from rushes_service.settings import Batching

MOST_TOKENS = 4096
"""Of one call of a transformer. Up to about there launching takes as long as computing (1.3 billion weights, H100)."""


def fits(batching: Batching, device: torch.device, tokens: int, count: int) -> bool:
    """True if `count` inputs of so many tokens are to go through a transformer together."""
    if batching == "off" or (batching == "auto" and device.type != "cuda"):
        return False
    return count * tokens <= MOST_TOKENS


@contextlib.contextmanager
def guided_at_once(transformer: nn.Module, negative: torch.Tensor) -> Iterator[None]:
    """Inside, `transformer` computes both calls of a step at the first, in one batch, and remembers the second answer.

    Pipelines call it with the prompt's embeddings, then, with all else the same, with the negative ones.

    Args:
        negative: embeddings of the negative prompts, of the shape of the others.
    """
    forward, own, kept = transformer.forward, "forward" in vars(transformer), list[torch.Tensor]()

    def both(*, encoder_hidden_states: torch.Tensor, **inputs: Any) -> tuple[torch.Tensor]:
        if kept:
            return (kept.pop(),)
        doubled = {name: twice(value) for name, value in inputs.items()}
        texts = torch.cat([encoder_hidden_states, negative.to(encoder_hidden_states)])
        guided, unguided = forward(encoder_hidden_states=texts, **doubled)[0].chunk(2)
        kept.append(unguided)
        return (guided,)

    transformer.forward = both
    try:
        yield
    finally:
        if own:
            transformer.forward = forward
        else:
            del transformer.forward


def twice(value: Any) -> Any:
    """A tensor, twice along its first dimension; anything else as it is."""
    return torch.cat([value, value]) if isinstance(value, torch.Tensor) else value
