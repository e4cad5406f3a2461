"""What is said of a file that does not fit: which keys, how many, which family it looks like, which unknown prefix."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import torch

from rushes_service.lora.reading.families import another_family
from rushes_service.lora.reading.files import WeightsFile
from rushes_service.lora.reading.keys import TEXT_ENCODER, split
from rushes_service.lora.targets import NameTable

SHOWN_KEYS = 3
"""Keys that a message quotes."""


def mismatch(file: WeightsFile, unmatched: list[str], family: str, names: NameTable) -> str | None:
    """Says which keys fit nothing and which family they look like; None if all fit."""
    if not unmatched:
        return None
    total = len(file.tensors)
    message = f"{file.path}: {len(unmatched)} of {total} keys match no module of {family}: {quoted(unmatched)}"
    text = [key for key in unmatched if TEXT_ENCODER.match(key)]
    if text:
        unread = "which is not merged" if names.texts is None else "which this model has not, or not with such modules"
        message += f". {len(text)} of them train a text encoder, {unread}"
    other = family_hint(file, family)
    if len(text) < len(unmatched):
        message += other or prefix_hint(unmatched, names)
    # That flag does not make a file of another family sampled.
    offered = len(unmatched) < total and not other
    return f"{message}. --allow_partial_lora samples without them" if offered else message


def whole_mismatch(file: WeightsFile, unmatched: list[str], lost: list[str], family: str) -> str | None:
    """Says what a whole checkpoint has too many or too few of; None if it is complete."""
    total = len(file.tensors)
    if unmatched:
        return (
            f"{file.path}: {len(unmatched)} of {total} keys match no weight of {family}: {quoted(unmatched)}"
            f"{family_hint(file, family)}"
        )
    if lost:
        return (
            f"{file.path}: a whole checkpoint, but {len(lost)} weights of {family} are not in it: {quoted(lost)}; is "
            "it one part of several?"
        )
    return None


def family_hint(file: WeightsFile, family: str) -> str:
    """What to say about the family that a file seems to be of."""
    other = another_family(shapes_of(file), file.metadata, family)
    return "" if other is None else f". This file looks like {other}: was the right architecture given?"


def prefix_hint(unmatched: Iterable[str], names: NameTable) -> str:
    """The unknown prefix, if a key's name without its beginning would be one of the model's modules."""
    for key in unmatched:
        parts = split(key)
        separator = "_" if parts.flat or "." not in parts.name else "."
        name = parts.name
        while separator in name:
            name = name.partition(separator)[2]
            if name and (separator in name or "." in name) and names.find(name, flat=separator == "_"):
                plain = re.escape(name)
                prefix = re.sub(rf"{plain}(?!.*{plain}).*", "", key)
                return f". Their names begin with {prefix!r}, which is not a prefix that is known"
    return ""


def shapes_of(file: WeightsFile) -> Mapping[str, tuple[int, ...]]:
    """Shape of each tensor of a file."""
    return {key: tuple(tensor.shape) for key, tensor in file.tensors.items()}


def missing(parameters: set[str], shapes: Mapping[str, torch.Size], names: NameTable) -> list[str]:
    """Parameters of the model, or of that expert of it that was trained, that a whole checkpoint does not have."""
    reach = names.reach
    wanted = {name for name in shapes if name in reach or name.rpartition(".")[0] in reach}
    return sorted(wanted - parameters)


def quoted(keys: list[str]) -> str:
    """The first keys of a list."""
    return ", ".join(keys[:SHOWN_KEYS]) + (", ..." if len(keys) > SHOWN_KEYS else "")
