"""Which of a directory's weights are read, where several lie beside each other: plain ones, and variants of them.

Names are those of diffusers and transformers: `model.safetensors` is plain, `model.fp16.safetensors` is of the variant
fp16, and `model.fp16-00001-of-00002.safetensors` a shard of it. Needs no torch.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from rushes.errors import ModelError

PLAIN = ""
"""What weights of no variant are called here."""

BASE = r"(?:diffusion_pytorch_model|pytorch_model|model)"
ENDING = r"\.(?:safetensors|bin)"
FILE = re.compile(rf"{BASE}(?:\.(?P<variant>[^.]+?))?(?:-\d{{5}}-of-\d{{5}}(?:\.(?P<older>[^.]+))?)?{ENDING}")
INDEX = re.compile(rf"{BASE}{ENDING}(?:\.(?P<older>[^.]+))?\.index(?:\.(?P<variant>[^.]+))?\.json")
"""A file of weights, and an index of shards; `older` is where diffusers once wrote the variant."""


def variant_of(name: str) -> str | None:
    """The variant that a file of weights, or an index of some, is of; None for any other file."""
    match = FILE.fullmatch(name) or INDEX.fullmatch(name)
    return match and (match["variant"] or match["older"] or PLAIN)


def variants_among(names: Iterable[str]) -> set[str]:
    """The variants of which there are weights. An index alone is none: it is downloaded with any of them."""
    return {variant_of(name) or PLAIN for name in names if FILE.fullmatch(name)}


def choose(place: object, names: Iterable[str], asked: str | None) -> str:
    """The variant whose weights are read in a directory with these files, as `from_pretrained(variant=asked)` chooses.

    Where nothing is asked for and there are no plain weights, it is the only variant there is.

    Args:
        place: the directory, for the message.

    Raises:
        ModelError: there are neither weights of that variant nor plain ones, or several variants to choose from.
    """
    found = variants_among(names)
    if asked in found:
        return str(asked)
    if PLAIN in found or not found:
        return PLAIN
    if asked is None and len(found) == 1:
        return found.pop()
    there = f"{place} has weights of {listed(found)} only"
    raise ModelError(f"{there}: say which with --variant" if asked is None else f"--variant {asked}: {there}")


def chosen_in(directory: Path, asked: str | None) -> str:
    """See `choose`."""
    return choose(directory, files_in(directory), asked)


def unread(names: Iterable[str], asked: str | None) -> set[str]:
    """The files of weights, and their indices, that are not read in a directory with these files.

    None where it is not clear which are; who loads them says so.
    """
    names = list(names)
    try:
        variant = choose("", names, asked)
    except ModelError:
        return set()
    return {name for name in names if variant_of(name) not in (None, variant)}


def unread_in(directory: Path, asked: str | None) -> set[str]:
    """See `unread`."""
    return unread(files_in(directory), asked)


def files_in(directory: Path) -> list[str]:
    """Names of the files that lie in a directory itself; none if it is not there."""
    return [file.name for file in directory.iterdir() if file.is_file()] if directory.is_dir() else []


def files_of_parts(directory: Path) -> list[str]:
    """Names of the files in a directory itself, and in those of its parts."""
    parts = [path for path in directory.iterdir() if path.is_dir()] if directory.is_dir() else []
    return [name for path in (directory, *parts) for name in files_in(path)]


def check_asked(place: object, names: Iterable[str], asked: str | None) -> None:
    """Raise `ModelError` if none of a model's files are weights of the variant that is asked for.

    Args:
        place: the model, for the message.
        names: those of all its files, without directories.
    """
    found = variants_among(names)
    if asked is not None and asked not in found:
        raise ModelError(f"--variant {asked}: no part of {place} has such weights; there are {listed(found)}")


def listed(variants: Iterable[str]) -> str:
    """Variants for a message."""
    return " and ".join(sorted(variant or "plain ones" for variant in variants)) or "none"
