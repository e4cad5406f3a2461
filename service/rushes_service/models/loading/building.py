"""A module of diffusers or transformers, made from a single file."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import nn

from rushes.errors import ModelError
from rushes_service.models.loading.build_plans import Plan, build_plan_for, plan
from rushes_service.models.loading.files.headers import Header
from rushes_service.models.loading.files.naming import Slot, find_slots, fitted
from rushes_service.models.loading.files.quantisation import check_quantisation
from rushes_service.models.loading.files.weights import WeightReader, opened
from rushes_service.models.loading.filling import ON_CPU, Destination, Weight, fill
from rushes_service.runtime.compat_diffusers_models import float32_modules

SHOWN = 3
"""Names that a message lists, of many."""


def build(
    header: Header,
    kind: Any,
    dtype: torch.dtype | None = None,
    overrides: Mapping[str, Any] | None = None,
    destination: Destination = ON_CPU,
) -> Any:
    """A module of class `kind` with the weights of a file, in `dtype` (float32 by default), on the CPU by default.

    Precisions are those that `kind.from_pretrained` would give: some layers stay in float32.

    Raises:
        ModelError: the file is of another model, incomplete, or holds more than the model has a place for.
        ConfigError: its weights cannot be kept as `destination` says.
    """
    check_quantisation(header)
    return build_planned(plan(header, build_plan_for(kind), overrides), kind, dtype, destination)


def build_planned(wanted: Plan, kind: Any, dtype: torch.dtype | None, destination: Destination) -> Any:
    """The same of a file whose configuration is known; raises as `build`."""
    with init_empty_weights(include_buffers=False):
        model = empty(kind, wanted.config)
    slots = placed(model, wanted)
    weights = arranged(model, {name: (slot, wanted.keys[slot.key]) for name, slot in slots.items()}, dtype)
    read(model, weights, wanted.header, wanted.model, destination)
    return model.eval()


def read(model: nn.Module, weights: Sequence[Weight], header: Header, called: str, destination: Destination) -> None:
    """Give a model on `meta` its weights; raises as `build`."""
    if destination.storage is not None:
        destination.storage.prepare(model)
    with opened(header) as reader:
        check_weights(model, weights, reader, header.path, called)
        fill(model, weights, reader, destination)


def empty(kind: Any, config: Mapping[str, Any]) -> Any:
    """A module without weights."""
    if hasattr(kind, "from_config"):
        return kind.from_config(dict(config))
    return kind(kind.config_class.from_dict(dict(config)))


def placed(model: nn.Module, wanted: Plan) -> dict[str, Slot]:
    """Where every parameter of `model` lies in the file.

    Raises:
        ModelError: some lie nowhere, or the file has weights that are nothing in the model.
    """
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    slots = find_slots(shapes, wanted.rules, wanted.keys)
    path = wanted.header.path
    if missing := [name for name in shapes if name not in slots]:
        raise ModelError(f"{path} lacks {listed(missing)} of {len(shapes)} tensors of {wanted.model}: it is incomplete")
    used = {slot.key for slot in slots.values()}
    if extra := [name for name in wanted.keys if name not in used and not wanted.is_unused(name)]:
        raise ModelError(
            f"{path} holds {listed(extra)} tensors that {wanted.model} has no place for: it is a variant of the model "
            "that is not supported"
        )
    return slots


def listed(names: Collection[str]) -> str:
    """How many names, and the first of them."""
    more = ", ..." if len(names) > SHOWN else ""
    return f"{len(names)} ({', '.join(sorted(names)[:SHOWN])}{more})"


def kept_precise(model: nn.Module, dtype: torch.dtype) -> set[str]:
    """Parts of names whose parameters stay in float32: those the class names, for the precisions it means."""
    always, listed = float32_modules(model)
    # transformers means float16 alone by the second list, diffusers every precision.
    return always | (listed if dtype is torch.float16 or hasattr(model, "from_config") else set())


def arranged(model: nn.Module, places: Mapping[str, tuple[Slot, str]], dtype: torch.dtype | None) -> list[Weight]:
    """What is to be read for `model`; parameters that lie in the same place are one weight.

    Args:
        places: slot and key in the file of every parameter, by name.
        dtype: None is float32.
    """
    dtype = dtype or torch.float32
    precise = kept_precise(model, dtype)
    names: dict[tuple[Slot, str], list[str]] = {}
    for name, place in places.items():
        names.setdefault(place, []).append(name)
    return [
        Weight(tuple(shared), slot, key, torch.float32 if precise & set(shared[0].split(".")) else dtype)
        for (slot, key), shared in names.items()
    ]


def check_weights(model: nn.Module, weights: Sequence[Weight], reader: WeightReader, path: Path, called: str) -> None:
    """Raise `ModelError` if a tensor has another shape than its parameter, or integers where a model has fractions."""
    empty_weights = model.state_dict()
    for weight in weights:
        wanted, stored = empty_weights[weight.names[0]], reader.dtype(weight.key)
        if wanted.is_floating_point() and not stored.is_floating_point:
            raise ModelError(f"{path}: {weight.slot.key} holds {stored}, which are no numbers of a model")
        found = reader.shape(weight.slot, weight.key)
        if fitted(torch.empty(found, device="meta"), wanted.shape) is None:
            raise ModelError(
                f"{path}: {weight.slot.key} has the shape {list(found)}, but {called} needs {list(wanted.shape)}"
            )
