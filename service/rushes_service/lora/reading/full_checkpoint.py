"""A merged or fully fine-tuned transformer as a checkpoint: every weight replaced."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch

from rushes.errors import LoraValue
from rushes_service.lora.changes import Patch, Replacement, as_matrix
from rushes_service.lora.reading.files import WeightsFile
from rushes_service.lora.reading.keys import DOTTED, Key, unwrapped
from rushes_service.lora.targets import NameTable

PREFIXES = (*(f"{prefix}." for prefix, _ in DOTTED), "")
"""What programs put before the transformer's own names."""

LEAVES = {"weight": "weight", "bias": "bias", "scale": "weight"}
"""Ends of keys, and what diffusers calls them; FLUX's own release calls the weight of a norm its scale."""


def is_whole(file: WeightsFile, keys: Mapping[str, Key]) -> bool:
    """True for a file without a single adapter's key, that says nothing of being an adapter."""
    return not any(statement.config for statement in file.statements) and not any(key.part for key in keys.values())


def read_whole(
    file: WeightsFile, names: NameTable, shapes: Mapping[str, torch.Size]
) -> tuple[tuple[Patch, ...], list[str], str]:
    """The changes of a whole checkpoint, the keys that fit nothing, and the format's name.

    Raises:
        LoraValue: a weight has the wrong shape.
    """
    prefix = most_fitting(file, names, shapes)
    patches: list[Patch] = []
    unmatched: list[str] = []
    original = False
    for key, tensor in file.tensors.items():
        bare = unwrapped(key)
        name = bare.removeprefix(prefix)
        found = list(patches_of(file, name, tensor, names, shapes)) if bare.startswith(prefix) else []
        patches += found
        original |= not all(patch.parameter.endswith(name) for patch in found)
        if not found:
            unmatched.append(key)
    return tuple(patches), unmatched, f"{'original' if original else 'diffusers'} checkpoint"


def most_fitting(file: WeightsFile, names: NameTable, shapes: Mapping[str, torch.Size]) -> str:
    """The prefix with which most keys have a place."""

    def fitting(prefix: str) -> int:
        return sum(
            any(True for _ in places(key.removeprefix(prefix), names, shapes))
            for key in map(unwrapped, file.tensors)
            if key.startswith(prefix)
        )

    return max(PREFIXES, key=fitting)


def places(
    name: str, names: NameTable, shapes: Mapping[str, torch.Size]
) -> Iterator[tuple[str, tuple[int, int] | None, tuple[int, int] | None]]:
    """Where a key's tensor goes: parameter, rows of the tensor, rows of the parameter."""
    if name in shapes:
        yield name, None, None
        return
    if name in names.parameters:
        yield from ((parameter, None, None) for parameter in names.parameters[name])
        return
    module, _, leaf = name.rpartition(".")
    for target in names.named(module) if leaf in LEAVES else ():
        parameter = f"{target.module}.{LEAVES[leaf]}"
        if parameter in shapes:
            yield parameter, target.rows, target.into


def patches_of(
    file: WeightsFile, name: str, tensor: torch.Tensor, names: NameTable, shapes: Mapping[str, torch.Size]
) -> Iterator[Patch]:
    """The changes that one tensor means."""
    for parameter, rows, into in places(name, names, shapes):
        value = as_matrix(tensor if rows is None else tensor[slice(*rows)])
        shape = shapes[parameter]
        wanted = (shape[0] if into is None else into[1] - into[0], shape[1:].numel())
        if tensor.ndim == 1 and rows is None and tensor.numel() == wanted[0] * wanted[1]:
            value = tensor.reshape(wanted)  # Krea 2 stores its modulation in one row
        if tuple(value.shape) != wanted:
            raise LoraValue(
                f"{file.path}: {name} is {list(tensor.shape)}, but {parameter} is {list(shape)} in the model; it is a "
                "checkpoint of another size"
            )
        yield Patch(parameter, Replacement(value), into)
