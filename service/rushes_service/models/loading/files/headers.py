"""What is in a weight file, read from its header: names, shapes and precisions, and no weights. Needs no torch."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from rushes._platform import open_shared
from rushes.checkpoints import safetensors
from rushes.errors import CheckpointError, ModelError
from rushes_service.models.loading.files.pickles import read_pickle

SAFETENSORS = (".safetensors", ".sft")
PICKLED = (".pt", ".pth", ".bin", ".ckpt")

SHARD = re.compile(r"(?P<name>.*)-\d{5}-of-(?P<count>\d{5})(?P<ending>\.safetensors)", re.IGNORECASE)

WRAPPERS = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
"""Modules that torch.compile, FSDP and activation checkpointing put around others, anywhere in a name."""

AROUND_ALL = ("module.", "transformer.")
"""What stands before every name of a file: DDP's wrapper, and a pipeline's name of its transformer."""

BITS = {"F64": 64, "I64": 64, "F32": 32, "I32": 32, "F16": 16, "BF16": 16, "I16": 16, "F4": 4}
"""Of a number, by the format's names; every other has eight."""


@dataclass(frozen=True)
class Entry:
    """One tensor of a file: its precision ("BF16", "F8_E4M3"), its shape, and which file of several it is in.

    `key` is its name there, where that has wrappers in it (see `without_wrappers`). `start` is where its numbers begin
    in a safetensors file, in bytes.
    """

    dtype: str
    shape: tuple[int, ...]
    file: Path
    key: str = ""
    start: int = 0

    @property
    def count(self) -> int:
        """How many numbers it has."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """What it takes on disk."""
        return self.count * BITS.get(self.dtype, 8) // 8


@dataclass(frozen=True)
class Header:
    """What is in a weight file. `path` is the file that was named, `files` are it and its other shards.

    `entries` are its tensors by their names without wrappers. `nested` leads to the tensors of a pickled file: the keys
    of the dictionaries around them. `metadata` is what a safetensors file says of itself.
    """

    path: Path
    files: tuple[Path, ...]
    entries: Mapping[str, Entry]
    nested: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def pickled(self) -> bool:
        """True for a `.pt` or `.pth` file."""
        return self.path.suffix.lower() in PICKLED

    @property
    def bytes(self) -> int:
        """All tensors together."""
        return sum(entry.bytes for entry in self.entries.values())

    @cached_property
    def fingerprint(self) -> str:
        """Hex digest of content identity: path, size, modification time and header of every file."""
        hasher = hashlib.sha256()
        for file in self.files:
            facts = file.stat()
            hasher.update(json.dumps([str(file.resolve()), facts.st_size, facts.st_mtime_ns]).encode())
        names = sorted((name, entry.dtype, entry.shape) for name, entry in self.entries.items())
        hasher.update(json.dumps(names).encode())
        return hasher.hexdigest()


def read_header(path: Path) -> Header:
    """What is in the weight file at `path`; of a file in shards, any one may be named.

    Raises:
        ModelError: it is not there, cut short, or no file of weights.
    """
    if not path.is_file():
        raise ModelError(f"{path} is {'no file' if path.exists() else 'not there'}")
    suffix = path.suffix.lower()
    if suffix in SAFETENSORS:
        files = tuple(shards(path))
        entries: dict[str, Entry] = {}
        metadata: dict[str, str] = {}
        for file in files:
            found, more = read_safetensors(file)
            entries, metadata = entries | found, metadata | more
        return Header(path, files, without_wrappers(entries), metadata=metadata)
    if suffix in PICKLED:
        nested, tensors = read_pickle(path)
        entries = {name: Entry(*facts, path) for name, facts in tensors.items()}
        return Header(path, (path,), without_wrappers(entries), nested)
    hint = "; GGUF is quantised in ways that are not read" if suffix == ".gguf" else ""
    raise ModelError(f"{path} is no file of weights: those end in {', '.join((*SAFETENSORS, *PICKLED))}{hint}")


def without_wrappers(entries: Mapping[str, Entry]) -> dict[str, Entry]:
    """Tensors by their names without what wraps a model while it is trained, and without what is before every name.

    Files whose names are then the same twice keep them as they are.
    """
    bare = {name: ".".join(part for part in name.split(".") if part not in WRAPPERS) for name in entries}
    while (outer := outermost(bare.values())) is not None:
        bare = {name: short.removeprefix(outer) for name, short in bare.items()}
    if len(set(bare.values())) < len(bare):
        return dict(entries)
    return {bare[name]: replace(entry, key=name) if bare[name] != name else entry for name, entry in entries.items()}


def outermost(names: Iterable[str]) -> str | None:
    """The one of `AROUND_ALL` that all names begin with, apart from those of one part."""
    dotted = [name for name in names if "." in name]
    return next((outer for outer in AROUND_ALL if dotted and all(name.startswith(outer) for name in dotted)), None)


def shards(path: Path) -> Iterator[Path]:
    """All files that `path` is one of: itself, or `NAME-00001-of-00004.safetensors` and its like.

    Raises:
        ModelError: some are missing.
    """
    match = SHARD.fullmatch(path.name)
    if match is None:
        yield path
        return
    count = match["count"]
    files = [
        path.with_name(f"{match['name']}-{number:05d}-of-{count}{match['ending']}")
        for number in range(1, int(count) + 1)
    ]
    if missing := [file.name for file in files if not file.is_file()]:
        raise ModelError(f"{path} is one of {int(count)} files, of which {len(missing)} are missing: {missing[0]}")
    yield from files


def read_safetensors(file: Path) -> tuple[dict[str, Entry], dict[str, str]]:
    """Tensors of one file by name, and its metadata, by its header.

    Raises:
        ModelError: it is cut short, or no safetensors file.
    """
    try:
        with open(file, "rb", opener=open_shared) as opened:
            header = safetensors.header_of(file, opened)
            first = opened.tell()
    except CheckpointError as error:
        raise ModelError(f"{error}; copy or download it again") from error
    except OSError as error:
        raise ModelError(f"{safetensors.unreadable(file, error)}; copy or download it again") from error
    metadata = header.pop(safetensors.METADATA, None) or {}
    entries = {
        name: Entry(facts["dtype"], tuple(facts["shape"]), file, start=first + facts["data_offsets"][0])
        for name, facts in header.items()
    }
    return entries, metadata
