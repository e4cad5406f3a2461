"""From one module of a file to changes of the parameters that it is in the live model; shapes are checked here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch

from rushes.errors import LoraValue
from rushes_service.lora.changes import Change, Difference, Patch, Replacement, as_matrix
from rushes_service.lora.reading.families import size_hint
from rushes_service.lora.reading.files import WeightsFile
from rushes_service.lora.reading.grouping import Module
from rushes_service.lora.reading.kinds import Named, weight_change
from rushes_service.lora.reading.scales import Scales
from rushes_service.lora.targets import LoraTarget


def patches_of(file: WeightsFile, module: Module, scales: Scales, shapes: Mapping[str, torch.Size]) -> Iterator[Patch]:
    """The changes of one module of the file, checked against the live model."""
    named = Named(module.name, scales, module.expert, module.rows)
    try:
        weight = weight_change(named, module.parts)
        changes = {"weight": weight, "bias": bias_change(module, weight)}
        for leaf, change in changes.items():
            if change is not None:
                yield from spread(change, leaf, module.targets, shapes)
    except ValueError as error:
        raise LoraValue(f"{file.path}: {module.name} {error}") from None


def bare_patches(
    file: WeightsFile, keys: Mapping[str, tuple[str, ...]], shapes: Mapping[str, torch.Size]
) -> Iterator[Patch]:
    """Differences of parameters that no module wraps."""
    for key, parameters in keys.items():
        for parameter in parameters:
            change = Difference(as_matrix(file.tensors[key]))
            if file.tensors[key].numel() != shapes[parameter].numel():
                found = list(file.tensors[key].shape)
                raise LoraValue(f"{file.path}: {key} is {found}, but {parameter} is {list(shapes[parameter])}")
            yield Patch(parameter, change)


def bias_change(module: Module, weight: Change | None) -> Change | None:
    """What becomes of a module's bias; a LoRA's own bias has the scale of its factors."""
    parts = module.parts
    if "value_b" in parts:
        return Replacement(as_matrix(parts["value_b"]))
    if "diff_b" in parts:
        return Difference(as_matrix(parts["diff_b"]))
    if "up_bias" in parts:
        factors = getattr(weight, "inner", weight)
        return Difference(as_matrix(parts["up_bias"]), getattr(factors, "scale", 1.0))
    return None


def spread(
    change: Change, leaf: str, targets: tuple[LoraTarget, ...], shapes: Mapping[str, torch.Size]
) -> Iterator[Patch]:
    """A module's change as changes of the parameters it is here.

    Raises:
        ValueError: the shapes do not fit.
    """
    for target in targets:
        wanted = shape_of(targets, target, leaf, shapes)
        if change.shape != wanted:
            raise ValueError(
                f"is {list(wanted)} in the model ({target.module}) but {list(change.shape)} in the file; it was "
                f"trained on a model of another size{size_hint(change.shape, wanted)}"
            )
        part = change if target.rows is None else change.part(*target.rows)
        yield Patch(f"{target.module}.{leaf}", part, target.into)


def shape_of(
    targets: tuple[LoraTarget, ...], target: LoraTarget, leaf: str, shapes: Mapping[str, torch.Size]
) -> tuple[int, int]:
    """Shape that a file's module has if it is for `target`, which may be one part of several."""
    parameter = f"{target.module}.{leaf}"
    if parameter not in shapes:
        raise ValueError(f"has a {leaf} in the file, but {target.module} has none in the model")
    shape = shapes[parameter]
    rows = shape[0] if target.rows is None else max(part.rows[1] for part in targets if part.rows)
    return rows, shape[1:].numel()
