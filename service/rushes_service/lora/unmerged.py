"""LoRA beside the weights, for weights that cannot be written. Each step costs more, so this is the last resort."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import nn
from torch.nn import functional
from torch.utils.hooks import RemovableHandle

from rushes.errors import LoraValue
from rushes_service.lora.changes import LowRank, Weighted, as_matrix, changed_weight
from rushes_service.runtime.compat_diffusers import offloaded_by_accelerate
from rushes_service.runtime.float8 import full_weight

Factors = tuple[torch.Tensor, torch.Tensor | None, tuple[int, int] | None]
"""Matrices to be applied one after the other: down and up, or a whole delta and None; and the rows that they go to."""


def why_unmerged(module: nn.Module, parameter: torch.Tensor, mergeable: Sequence[torch.dtype]) -> str | None:
    """Why a weight cannot be written: it is quantised, or not in memory between steps. None if it can be written.

    Weights offloaded by `engine.placement` can be merged: they stay in host memory.
    """
    if parameter.is_meta or offloaded_by_accelerate(module):
        return "offloaded weights are not there to be written"
    if parameter.dtype not in mergeable or type(parameter.data) is not torch.Tensor:
        kind = str(parameter.dtype).removeprefix("torch.")
        return f"{kind} weights would round the LoRA away"
    return None


class LoraHooks:
    """Changes that are applied to the output of their modules."""

    def __init__(self) -> None:
        self._handles: list[RemovableHandle] = []
        self.reason = ""

    @property
    def active(self) -> bool:
        """True if there are any."""
        return bool(self._handles)

    def install(self, wanted: Mapping[str, tuple[nn.Module, Sequence[Weighted], str]]) -> None:
        """Apply these changes, by parameter, and no others.

        Raises:
            LoraValue: a change is of a kind that only a writable weight can take.
        """
        self.remove()
        for name, (module, weighted, reason) in wanted.items():
            hook = output_hook(name, module, weighted)
            self._handles.append(module.register_forward_hook(hook))
            self.reason = reason

    def remove(self) -> None:
        """Apply nothing any more."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self.reason = ""


def output_hook(name: str, module: nn.Module, weighted: Sequence[Weighted]) -> Callable[..., torch.Tensor]:
    """A forward hook that adds what the changes add to the output of `module`."""
    if not isinstance(module, nn.Linear):
        raise LoraValue(f"{name} cannot be written ({type(module).__name__}), and only linear layers can do without")
    if name.endswith(".bias"):
        return bias_hook(name, module, weighted)
    factors = factors_of(name, module, weighted)

    def add(_module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        for index, (down, up, rows) in enumerate(factors):
            if down.device != output.device or down.dtype != output.dtype:
                factors[index] = (down, up, rows) = (down.to(output), None if up is None else up.to(output), rows)
            extra = functional.linear(inputs[0].to(output.dtype), down)
            if up is not None:
                extra = functional.linear(extra, up)
            output = output + extra if rows is None else added_to_rows(output, extra, rows)
        return output

    return add


def bias_hook(name: str, module: nn.Linear, weighted: Sequence[Weighted]) -> Callable[..., torch.Tensor]:
    """A forward hook that adds what the changes add to the bias of `module`."""
    base = readable(name, module.bias)
    delta = (changed_weight(base, weighted) - base).flatten()

    def add(_module: nn.Module, _inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        return output + delta.to(output)

    return add


def added_to_rows(output: torch.Tensor, extra: torch.Tensor, rows: tuple[int, int]) -> torch.Tensor:
    """`output` with `extra` added to some of its channels."""
    output = output.clone()
    output[..., slice(*rows)] += extra
    return output


def factors_of(name: str, module: nn.Module, weighted: Sequence[Weighted]) -> list[Factors]:
    """What is applied beside a weight: plain LoRAs as they are; with anything else, one delta of all changes."""
    found: list[Factors] = []
    for patch, strength in weighted:
        if not isinstance(patch.change, LowRank):
            base = readable(name, full_weight(module))
            return [(changed_weight(base, weighted) - base, None, None)]
        found.append((patch.change.down, patch.change.up.float() * (patch.change.scale * strength), patch.into))
    return found


def readable(name: str, weight: torch.Tensor) -> torch.Tensor:
    """A weight in float32 on the CPU, for changes that depend on it.

    Raises:
        LoraValue: it cannot be read.
    """
    dequantize = getattr(weight.data, "dequantize", None)
    try:
        if type(weight.data) is not torch.Tensor and dequantize is not None:
            weight = dequantize()
        return as_matrix(weight.detach().to("cpu", torch.float32))
    except (NotImplementedError, RuntimeError) as error:
        raise LoraValue(f"{name} cannot be read ({error}); only plain LoRA can be used with this model") from error
