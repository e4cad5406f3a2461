"""The checkpoints that lie in a trainer's output directory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

from rushes.checkpoints.adapters import ADAPTER_CONFIG, WEIGHTS_NAME
from rushes.watch.names import Place, place_of_directory, place_of_file

ENDING = ".safetensors"

NO_CHECKPOINTS = (
    "*.pending.safetensors",
    "*-of-[0-9]*.safetensors",
    "diffusion_pytorch_model*.safetensors",
    "model.safetensors",
    "model_[0-9]*.safetensors",
    "optimizer*.safetensors",
)
"""Files that are no LoRA: parts of a whole model, and what accelerate saves to resume from."""

NO_RUNS = ("*-state", "global_step*", "finetrainers_step_*", "sample", "samples", "tmp", "logs", "__pycache__")
"""Directories without checkpoints to sample: states to resume from, and pictures."""

SHELVES = ("lora_weights", "save")
"""Directories that belong to the run above them: finetrainers', OneTrainer's."""


class Identity(NamedTuple):
    """What tells one content of a file from another without reading it."""

    inode: int
    size: int
    mtime_ns: int


@dataclass(frozen=True)
class Found:
    """A checkpoint, complete or not.

    Args:
        path: the file, or the directory of a PEFT adapter.
        weights: the file with the tensors.
        run_dir: the output directory of its training run.
        place: what its name says.
        identity: of `weights`.
    """

    path: Path
    weights: Path
    run_dir: Path
    place: Place
    identity: Identity

    def of(self, output_name: str | None) -> Found:
        """This, known to be of a run called so: the last checkpoint of `lora-250131` is no epoch of a run `lora`."""
        return replace(self, place=Place(output_name)) if self.path.stem == output_name else self


@dataclass(frozen=True)
class Search:
    """What is looked for.

    Args:
        recursive: directories below are runs of their own.
        exclude: further patterns of file and directory names to leave alone.
    """

    recursive: bool = False
    exclude: tuple[str, ...] = ()

    def skips(self, name: str, also: tuple[str, ...]) -> bool:
        """True for names that are left alone; hidden ones always are."""
        return name.startswith(".") or any(fnmatch(name, pattern) for pattern in (*also, *self.exclude))


def find(root: Path, search: Search) -> list[Found]:
    """Checkpoints in an output directory, in no particular order; nothing where there is no such directory."""
    return list(look_into(root, root, None, search))


def look_into(directory: Path, run_dir: Path, place: Place | None, search: Search) -> Iterator[Found]:
    """Checkpoints in one directory; `place` is what its own name says if it is that of one checkpoint."""
    try:
        entries = list(os.scandir(directory))
    except OSError:  # gone meanwhile, or not ours to read
        return
    names = {entry.name for entry in entries}
    if WEIGHTS_NAME in names and not search.skips(WEIGHTS_NAME, ()):
        yield from found(directory, directory / WEIGHTS_NAME, run_dir, place or Place())
    for entry in entries:
        path = Path(entry.path)
        if entry.name.endswith(ENDING):
            if entry.name != WEIGHTS_NAME and not search.skips(entry.name, NO_CHECKPOINTS):
                yield from found(path, path, run_dir, combined(place, place_of_file(path.stem)))
        elif entry.is_dir(follow_symlinks=False) and place is None and not search.skips(entry.name, NO_RUNS):
            yield from look_below(path, run_dir, search)


def look_below(directory: Path, run_dir: Path, search: Search) -> Iterator[Found]:
    """Checkpoints in a directory inside a run's: one checkpoint's own, a shelf of them, or another run's."""
    place = place_of_directory(directory.name)
    if place is not None:
        yield from look_into(directory, run_dir, place, search)
    elif directory.name in SHELVES:
        yield from look_into(directory, run_dir, None, replace(search, recursive=False))
    elif search.recursive:
        yield from look_into(directory, directory, None, search)
    elif (directory / ADAPTER_CONFIG).exists():
        yield from look_into(directory, run_dir, Place(), search)


def found(path: Path, weights: Path, run_dir: Path, place: Place) -> Iterator[Found]:
    """A checkpoint, unless its file has just gone."""
    try:
        yield Found(path, weights, run_dir, place, identity(weights))
    except OSError:
        return


def identity(weights: Path) -> Identity:
    """Identity of a file as it is now.

    Raises:
        OSError: it is gone.
    """
    status = weights.stat()
    return Identity(status.st_ino, status.st_size, status.st_mtime_ns)


def combined(outer: Place | None, inner: Place) -> Place:
    """What a checkpoint's directory and its file say together; the directory's number counts first.

    Inside a checkpoint's own directory the file's name is the same at every step, and no name of a run.
    """
    if outer is None:
        return inner
    if outer.step is None and outer.epoch is None:
        return Place(None, inner.step, inner.epoch)
    return outer
