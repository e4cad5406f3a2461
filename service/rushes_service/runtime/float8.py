"""Linear layers whose weights are stored in float8 (e4m3), with scales or without, and computed in wider precision.

Scales and rounding are musubi-tuner 0.3.4's (modules/fp8_optimization_utils.py): one scale for every 64 columns of a
row, or one for a row where columns do not divide so. Text encoders have no scales, as there (`prepare_fp8` in its
hunyuan_model/text_encoder.py, wan/modules/t5.py and flux/flux_utils.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from rushes.errors import ModelError
from rushes_service.runtime.compat_torch import scaled_product

FP8 = torch.float8_e4m3fn
FP8_MAX = torch.finfo(FP8).max

BLOCK_COLUMNS = 64
"""Columns that share a scale."""

SMALLEST_SCALE = 1e-8
"""Of a block of zeros, which have none of their own."""

GATED = ("wi_0", "wi_1", "wo", "act", "dropout")
"""Parts of the feed-forward layers of T5 and UMT5."""

EXCLUDED = "norm"
"""In the names of layers that keep their precision: norms, and the modulation that diffusers has inside them."""


class Float8Linear(nn.Linear):
    """A linear layer with its weight in float8. Never constructed: `stored_in_float8` makes one of a live layer.

    `scales` is [rows, blocks, 1], or None.
    """

    scales: torch.Tensor | None

    def expanded(self, dtype: torch.dtype) -> torch.Tensor:
        """The weight as it computes, [rows, columns] in `dtype`."""
        weight = self.weight.to(dtype)
        if self.scales is None:
            return weight
        return (weight.unflatten(1, (self.scales.shape[1], -1)) * self.scales.to(dtype)).flatten(1)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return functional.linear(input, self.expanded(input.dtype), self.bias)


class FastFloat8Linear(Float8Linear):
    """The same with products in float8, too: each row of the input and of the weight has a scale.

    Approximate: the input is rounded to three bits behind its first.
    """

    scales: torch.Tensor

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        rows = input.flatten(0, -2)
        scales = (rows.abs().amax(dim=1, keepdim=True).float() / FP8_MAX).clamp(min=SMALLEST_SCALE)
        rounded = (rows / scales).clamp_(-FP8_MAX, FP8_MAX).to(FP8)
        own = self.scales[:, :, 0].t().to(rows.device)
        made = scaled_product(rounded, self.weight.t(), scales, own.contiguous(), input.dtype)
        made = made.unflatten(0, input.shape[:-1])
        return made if self.bias is None else made + self.bias


FAST_SINCE = (8, 9)
"""Compute capability of the first cards with products in float8."""

FAST_MULTIPLE = 16
"""Both sizes of a weight must be a multiple of this for a product in float8."""


def check_fast(device: torch.device) -> None:
    """Raise `ModelError` if a device has no products in float8."""
    if device.type == "cuda" and (found := torch.cuda.get_device_capability(device)) < FAST_SINCE:
        raise ModelError(
            f"--fp8_fast: {device} has no products in float8 (compute capability {found[0]}.{found[1]}; "
            "Ada, Hopper and newer have them): leave it out, --fp8_scaled takes as little memory"
        )


@torch.no_grad()
def stored_in_float8(
    layer: nn.Linear,
    *,
    scaled: bool,
    device: torch.device | None = None,
    home: torch.device | None = None,
    fast: bool = False,
) -> None:
    """Make `layer` a `Float8Linear` in place.

    Args:
        scaled: with scales, in the precision that the weight had; else it is rounded as it is.
        device: where to compute that, if not where the weight lies.
        home: where the result is to lie, if not where the weight lay.
        fast: with a scale for each row, and products in float8, where the layer's sizes allow them.
    """
    home, dtype = home or layer.weight.device, layer.weight.dtype
    weight = layer.weight.detach().to(device or layer.weight.device)
    fast = fast and not any(size % FAST_MULTIPLE for size in weight.shape)
    rounded, scales = quantized(weight, by_row=fast) if scaled else (weight.to(FP8), None)
    layer.weight = nn.Parameter(rounded.to(home), requires_grad=False)
    layer.register_buffer("scales", None if scales is None else scales.to(home, torch.float32 if fast else dtype))
    layer.__class__ = FastFloat8Linear if fast else Float8Linear


def quantized(weight: torch.Tensor, *, by_row: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """A weight [rows, columns] in float8, and its scales [rows, blocks, 1] in float32.

    The largest number of a block becomes the largest that float8 has.
    """
    blocks, rest = divmod(weight.shape[1], BLOCK_COLUMNS)
    blocks = 1 if rest or by_row else blocks
    parts = weight.unflatten(1, (blocks, -1))
    # Divided in the weight's own precision: the reference widens only afterwards.
    scales = (parts.abs().amax(dim=2, keepdim=True) / FP8_MAX).clamp(min=SMALLEST_SCALE).float()
    rounded = (parts.float() / scales).nan_to_num_(0.0).clamp_(-FP8_MAX, FP8_MAX).to(FP8)
    return rounded.flatten(1), scales


def block_linears(model: nn.Module, blocks: Sequence[str]) -> Iterator[tuple[str, nn.Linear]]:
    """The linear layers inside `model`'s lists called `blocks`, by name, without those of norms and modulation."""
    for name, module in model.named_modules():
        inside = name.partition(".")[0] in blocks and EXCLUDED not in name
        if inside and isinstance(module, nn.Linear):
            yield name, module


@torch.no_grad()
def encoder_in_float8(encoder: nn.Module) -> None:
    """Round all of a text encoder to float8, in place, as the reference does, down to its rotary frequencies.

    The weights of linear layers stay in float8; what is small, or looked up, is widened again.
    """
    for module in encoder.modules():
        if isinstance(module, nn.Linear):
            stored_in_float8(module, scaled=False)
        if all(hasattr(module, name) for name in GATED):
            module.forward = partial(gated, module)
        for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
            if tensor.is_floating_point() and tensor.dtype != FP8:
                tensor.copy_(tensor.to(FP8))


def gated(layer: Any, hidden: torch.Tensor) -> torch.Tensor:
    """The feed-forward layer of T5, which by itself would round its activations to the precision of `wo`'s weight."""
    return layer.wo(layer.dropout(layer.act(layer.wi_0(hidden)) * layer.wi_1(hidden)))  # type: ignore[no-any-return]


def precision(dtype: torch.dtype, *, float8: bool) -> str:
    """How an encoder computes and is stored, for receipts and the keys of what it made."""
    computed = str(dtype).removeprefix("torch.")
    return f"{computed}, stored in float8_e4m3fn" if float8 else computed


def full_weight(module: nn.Module) -> Any:
    """The weight of a module as it computes: with its scales, if it is stored in float8."""
    if not isinstance(module, Float8Linear):
        return module.weight
    return module.expanded(torch.float32 if module.scales is None else module.scales.dtype)
