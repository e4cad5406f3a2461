"""The rooms of this package, and what each declares: families, kinds of files, how files are read.

Loading lies below the rooms and does not import them. It finds them here by name, when something is first loaded. A
room is a package of this one with two modules: `room` (its `ROOM`, read without torch) and `files` (its `BUILD_PLANS`).
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

ROOMS = (
    "framepack",
    "hunyuan15",
    "hunyuan",
    "wan22",
    "wan",
    "flux2",
    "flux",
    "qwen",
    "zimage",
    "krea2",
    "kandinsky5",
    "generic",
    "vae",
    "llm",
    "encoders",
)
"""A new family's room goes here. Kinds of files are tried in this order, those with the rarest names first."""

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Family:
    """How one family is sampled, as "module:name" of things in its room.

    `sampler` is a subclass of `models.base.Architecture`, `tiny_model` a function `(directory) -> directory` that
    writes a small model with random weights. It is deterministic and reuses a directory that is complete.
    """

    sampler: str
    tiny_model: str


@dataclass(frozen=True)
class FileKind:
    """One kind of weights file, told by the names in it.

    `signs` are names of tensors, or their ends after a dot; any one of them makes the file one of this kind, unless an
    earlier kind of the same flag has a sign in it. `flag` is the option that such a file is usually given by.
    `variants` say what the file is for by the input channels of its `first_layer`.
    """

    name: str
    title: str
    flag: str
    signs: tuple[str, ...]
    first_layer: str = ""
    variants: Mapping[int, str] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class Room:
    """What a room declares.

    `processors` are parts that are known beforehand when another part is a single file: that other part, and the
    directory below the room's `published/` that takes the place of the part.
    """

    families: Mapping[str, Family] = field(default_factory=dict)
    file_kinds: tuple[FileKind, ...] = ()
    processors: Mapping[str, tuple[str, str]] = field(default_factory=dict)


def module(room: str, name: str) -> Any:
    """Module `name` of a room."""
    return importlib.import_module(f"{__package__}.{room}.{name}")


@cache
def declared() -> Mapping[str, Room]:
    """What each room declares, in the order of `ROOMS`."""
    return {room: module(room, "room").ROOM for room in ROOMS}


def families() -> Iterator[tuple[str, str, Family]]:
    """Every family: its room, its name, how it is sampled."""
    for room, found in declared().items():
        for name, family in found.families.items():
            yield room, name, family


@cache
def file_kinds() -> tuple[FileKind, ...]:
    """Every kind of file, in the order in which they are tried."""
    return tuple(kind for room in declared().values() for kind in room.file_kinds)


def in_room(room: str, path: str) -> Any:
    """What "module:name" means in a room."""
    inner, _, name = path.partition(":")
    return getattr(module(room, inner), name)


def published(name: str) -> Path:
    """A file or directory that some room keeps in `published/`: what publishers say of their models.

    Raises:
        LookupError: no room keeps it.
    """
    for room in ROOMS:
        if (path := HERE / room / "published" / name).exists():
            return path
    raise LookupError(f"no room of {HERE} has published/{name}")
