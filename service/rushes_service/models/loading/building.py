"""A module of diffusers or transformers, made from a single file."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
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
from rushes_service.runtime.compat_diffusers_models import float32_modules

SHOWN = 3
"""Names that a message lists, of many."""


def build(
    header: Header, kind: Any, dtype: torch.dtype | None = None, overrides: Mapping[str, Any] | None = None
) -> Any:
    """A module of class `kind` with the weights of a file, in `dtype` (float32 by default), on the CPU.

    Precisions are those that `kind.from_pretrained` would give: some layers stay in float32.

    Raises:
        ModelError: the file is of another model, incomplete, or holds more than the model has a place for.
    """
    check_quantisation(header)
    wanted = plan(header, build_plan_for(kind), overrides)
    with init_empty_weights(include_buffers=False):
        model = empty(kind, wanted.config)
    slots = placed(model, wanted)
    precise = kept_precise(model, dtype or torch.float32)
    with opened(header) as reader:
        weights = {
            name: tensor.to(torch.float32 if precise & set(name.split(".")) else dtype or torch.float32)
            for name, tensor in arranged(model, slots, wanted, reader)
        }
    model.load_state_dict(shared(weights, slots), assign=True)
    return model.eval()


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


def arranged(
    model: nn.Module, slots: Mapping[str, Slot], wanted: Plan, reader: WeightReader
) -> Iterator[tuple[str, torch.Tensor]]:
    """Every parameter of `model` as the file has it. What several share is read once.

    Raises:
        ModelError: one has another shape than the model's.
    """
    empty_weights = model.state_dict()
    shapes = {name: tensor.shape for name, tensor in empty_weights.items()}
    last: tuple[str, torch.Tensor] | None = None
    for name, slot in sorted(slots.items(), key=lambda item: item[1].key):
        if last is None or last[0] != slot.key:
            last = (slot.key, reader.read(wanted.keys[slot.key]))
        if empty_weights[name].is_floating_point() and not last[1].is_floating_point():
            raise ModelError(f"{wanted.header.path}: {slot.key} holds {last[1].dtype}, which are no numbers of a model")
        part = slot.cut(last[1])
        tensor = fitted(part, shapes[name])
        if tensor is None:
            raise ModelError(
                f"{wanted.header.path}: {slot.key} has the shape {list(part.shape)}, but {wanted.model} needs "
                f"{list(shapes[name])}"
            )
        yield name, tensor


def shared(weights: dict[str, torch.Tensor], slots: Mapping[str, Slot]) -> dict[str, torch.Tensor]:
    """`weights`, with one tensor for all parameters that the file stores once (tied embeddings)."""
    first: dict[Slot, str] = {}
    return {name: weights[first.setdefault(slots[name], name)] for name in weights}
