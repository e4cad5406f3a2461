"""Qwen-Image's transformer, shown further pictures behind the one that is made."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from rushes_service.models.conditioning import Conditioning

CONTROL = "control_{}"
"""Name of a control image's latents in the conditioning."""

Grid = tuple[int, int, int]
"""Frames, rows and columns of tokens."""


def control_latents(conditioning: Conditioning) -> list[torch.Tensor]:
    """Latents of the control images, [1, 16, 1, h, w] each, in the order of the prompt."""
    count = sum(name.startswith(CONTROL.format("")) for name in conditioning)
    return [conditioning[CONTROL.format(index)] for index in range(count)]


def packed(latents: torch.Tensor) -> torch.Tensor:
    """Latents [1, 16, 2h, 2w] as tokens [1, h w, 64]."""
    batch, channels, rows, columns = latents.shape
    grid = latents.view(batch, channels, rows // 2, 2, columns // 2, 2)
    return grid.permute(0, 2, 4, 1, 3, 5).reshape(batch, rows // 2 * (columns // 2), channels * 4)


@contextlib.contextmanager
def shown(
    transformer: nn.Module, made: Sequence[Grid], controls: Sequence[torch.Tensor], **more: Any
) -> Iterator[None]:
    """Inside, each call of `transformer` also sees `controls`, and answers for the tokens of `made` alone.

    Args:
        made: the pictures that are made.
        more: further arguments of each call.
    """
    if not controls and not more:
        yield
        return
    tokens = torch.cat([packed(latents[:, :, 0]) for latents in controls], dim=1)
    grids = [*made, *((1, latents.shape[-2] // 2, latents.shape[-1] // 2) for latents in controls)]

    def give(
        _module: nn.Module, args: tuple[Any, ...], inputs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        own = inputs["hidden_states"]
        return args, {**inputs, "hidden_states": torch.cat([own, tokens.to(own)], dim=1), "img_shapes": [grids], **more}

    def take(_module: nn.Module, _args: tuple[Any, ...], answer: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return (answer[0][:, : -tokens.shape[1]],)

    hooks = (transformer.register_forward_pre_hook(give, with_kwargs=True), transformer.register_forward_hook(take))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
