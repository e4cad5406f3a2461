"""LoRA beside the weights, for weights that cannot be written. Each step costs more, so this is the last resort."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import nn
from torch.nn import functional
from torch.utils.hooks import RemovableHandle

from rushes.errors import LoraValue
from rushes_service.lora.changes import LowRank, Weighted, as_matrix, changed_weight, moved, uploaded
from rushes_service.runtime.compat_accelerate import offloaded_by_accelerate
from rushes_service.runtime.float8 import full_weight

Factors = tuple[torch.Tensor, torch.Tensor, tuple[int, int] | None]
"""Matrices to be applied one after the other, down and up, and the rows that they go to."""


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


Hook = Callable[[nn.Module, tuple[torch.Tensor, ...], torch.Tensor], torch.Tensor]


def output_hook(name: str, module: nn.Module, weighted: Sequence[Weighted]) -> Hook:
    """A forward hook that adds what the changes add to the output of `module`."""
    if not isinstance(module, nn.Linear):
        raise LoraValue(f"{name} cannot be written ({type(module).__name__}), and only linear layers can do without")
    if name.endswith(".bias"):
        return constant_hook((changed_weight(base := readable(name, module.bias), weighted) - base).flatten())
    if all(isinstance(patch.change, LowRank) for patch, _ in weighted):
        return factors_hook(weighted)
    if type(module.weight.data) is torch.Tensor:
        return changes_hook(weighted)
    return delta_hook(changed_weight(base := readable(name, module.weight), weighted) - base)


def factors_hook(weighted: Sequence[Weighted]) -> Hook:
    """Adds plain LoRAs. Their factors stay on the device, in the precision of the output."""
    factors: list[Factors] = [
        (patch.change.down, patch.change.up.float() * (patch.change.scale * strength), patch.into)  # type: ignore[attr-defined]
        for patch, strength in weighted
    ]

    def add(_module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        for index, (down, up, rows) in enumerate(factors):
            if down.device != output.device or down.dtype != output.dtype:
                factors[index] = (down, up, rows) = (uploaded(down, output), uploaded(up, output), rows)
            extra = functional.linear(functional.linear(inputs[0].to(output.dtype), down), up)
            output = output + extra if rows is None else added_to_rows(output, extra, rows)
        return output

    return add


def changes_hook(weighted: Sequence[Weighted]) -> Hook:
    """Adds changes of any kind to a layer in float8.

    Only the changes' own tensors stay on the device. Their delta, as large as the weight that float8 is to save, is
    made anew in each call.
    """
    there: list[Weighted] = list(weighted)
    place: torch.device | None = None

    def add(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        nonlocal place
        if place != output.device:
            place = output.device
            there[:] = [(replace(patch, change=moved(patch.change, place)), strength) for patch, strength in weighted]
        base = as_matrix(full_weight(module)).to(output.device, torch.float32)
        delta = changed_weight(base, there).sub_(base)
        return output + functional.linear(inputs[0].to(output.dtype), delta.to(output.dtype))

    return add


def delta_hook(delta: torch.Tensor) -> Hook:
    """Adds a whole delta [out, in]; it stays on the device, in the precision of the output."""

    def add(_module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        nonlocal delta
        delta = uploaded(delta, output)
        return output + functional.linear(inputs[0].to(output.dtype), delta)

    return add


def constant_hook(delta: torch.Tensor) -> Hook:
    """Adds the change of a bias [out]; it stays on the device, in the precision of the output."""

    def add(_module: nn.Module, _inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        nonlocal delta
        delta = uploaded(delta, output)
        return output + delta

    return add


def added_to_rows(output: torch.Tensor, extra: torch.Tensor, rows: tuple[int, int]) -> torch.Tensor:
    """`output` with `extra` added to some of its channels."""
    output = output.clone()
    output[..., slice(*rows)] += extra
    return output


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
