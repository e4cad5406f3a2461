"""The checkpoints that lie in a trainer's output directory."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

from rushes.checkpoints.adapters import ADAPTER_CONFIG, WEIGHTS_NAME
from rushes.checkpoints.file_names import without_expert
from rushes.watch.names import Place, place_of_directory, place_of_file, without_time

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

NO_RUNS = (
    *("*-state", "global_step*", "finetrainers_step_*", "*-backup-[0-9]*-[0-9]*-[0-9]*"),
    *("sample", "samples", "tmp", "*-tmp", "logs", "__pycache__"),
)
"""Directories without checkpoints to sample: states to resume from, what is being written, and pictures."""

AVERAGED = "ema"
"""Directory in that of a checkpoint, with the averaged weights of the same step: SimpleTuner's."""

SHELVES = ("lora_weights", "save")
"""Directories that belong to the run above them: finetrainers', OneTrainer's."""


RunKey = tuple[Path, str | None]
"""Directory and name of a run."""


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
        own_directory: it lies in a directory that is named after its step.
        short_experts: see `Search`.
    """

    path: Path
    weights: Path
    run_dir: Path
    place: Place
    identity: Identity
    own_directory: bool = False
    short_experts: bool = False

    @property
    def run_key(self) -> RunKey:
        """What checkpoints of one run have in common."""
        return self.run_dir, self.place.name

    @property
    def shown(self) -> str:
        """Its path below the run's directory: in a checkpoint's own directory files are called alike at every step."""
        return self.path.relative_to(self.run_dir).as_posix()

    def of(self, output_name: str | None) -> Found:
        """This, known to be of a run called so: the last checkpoint of `lora-250131` is no epoch of a run `lora`.

        A name that says of no run is that run's.
        """
        if not output_name:
            return self
        inside = self.own_directory
        place = self.place if inside else place_of_file(self.path.stem, output_name, short_experts=self.short_experts)
        place = replace(place, name=place.name or output_name, epochs_from_zero=self.place.epochs_from_zero)
        return replace(self, place=place)


@dataclass(frozen=True)
class Search:
    """What is looked for.

    Args:
        recursive: directories below are runs of their own.
        exclude: further patterns of file and directory names to leave alone.
        short_experts: `_high` and `_low` at the end of a name say which transformer a file is for.
    """

    recursive: bool = False
    exclude: tuple[str, ...] = ()
    short_experts: bool = False

    def skips(self, name: str, also: tuple[str, ...]) -> bool:
        """True for names that are left alone; hidden ones always are."""
        if name.startswith(".") or any(fnmatch(name, pattern) for pattern in self.exclude):
            return True
        return any(fnmatch(name.lower(), pattern) for pattern in also)


def find(root: Path, search: Search) -> list[Found]:
    """Checkpoints in an output directory, in no particular order; nothing where there is no such directory."""
    return last_ones_named(epochs_counted(look_into(root, root, None, search)))


def last_ones_named(checkpoints: Sequence[Found]) -> list[Found]:
    """Checkpoints of which OneTrainer's last, with the time of the end in its name, is of the run of the others."""
    runs = {found.run_key for found in checkpoints if found.place.step is not None}
    named: list[Found] = []
    for found in checkpoints:
        name = None if found.own_directory else without_time(found.path.stem)
        of_run = name is not None and (found.run_dir, name or None) in runs
        named.append(replace(found, place=replace(found.place, name=name or None)) if of_run else found)
    return named


def epochs_counted(checkpoints: Iterable[Found], from_zero: Collection[RunKey] = ()) -> list[Found]:
    """Checkpoints that know whether their run counts epochs from 0: one of it does so, or `from_zero` has its key."""
    every = list(checkpoints)
    zero = {found.run_key for found in every if found.place.epoch == 0} | set(from_zero)
    return [
        replace(found, place=replace(found.place, epochs_from_zero=True)) if found.run_key in zero else found
        for found in every
    ]


def look_into(directory: Path, run_dir: Path, place: Place | None, search: Search) -> Iterator[Found]:
    """Checkpoints in one directory; `place` is what its own name says if it is that of one checkpoint."""
    try:
        entries = list(os.scandir(directory))
    except OSError:  # gone meanwhile, or not ours to read
        return
    names = {entry.name for entry in entries}
    if WEIGHTS_NAME in names and not search.skips(WEIGHTS_NAME, ()):
        yield from found(directory, directory / WEIGHTS_NAME, run_dir, place or Place(), place is not None, search)
    for entry in entries:
        path = Path(entry.path)
        if entry.name.lower().endswith(ENDING):
            if entry.name != WEIGHTS_NAME and not search.skips(entry.name, NO_CHECKPOINTS):
                inner = place_of_file(path.stem, short_experts=search.short_experts)
                yield from found(path, path, run_dir, combined(place, inner), place is not None, search)
        elif entry.is_dir(follow_symlinks=False) and not search.skips(entry.name, NO_RUNS):
            if place is None:
                yield from look_below(path, run_dir, search)
            elif entry.name == AVERAGED and place.label is None:
                yield from look_into(path, run_dir, replace(place, label=AVERAGED), search)


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


def found(
    path: Path, weights: Path, run_dir: Path, place: Place, own_directory: bool, search: Search
) -> Iterator[Found]:
    """A checkpoint, unless its file has just gone. Where its name tells no expert, that of its run's directory may."""
    expert = place.expert or without_expert(run_dir.name, short=search.short_experts)[1]
    try:
        of_expert = replace(place, expert=expert)
        yield Found(path, weights, run_dir, of_expert, identity(weights), own_directory, search.short_experts)
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
    numbers = inner if outer.step is None and outer.epoch is None else outer
    label, expert = outer.label or inner.label, outer.expert or inner.expert
    return Place(None, numbers.step, numbers.epoch, label, expert)


def nothing_found(root: Path, search: Search) -> str:
    """What was looked for in a directory that holds no checkpoint, and where some may be; for a terminal."""
    looked = f"looked for *{ENDING} and directories like checkpoint-500 or epoch4"
    inside = sorted(path for path in (*root.glob("*"), *root.glob("*/*")) if path.name.lower().endswith(ENDING))
    passed_over = [path for path in inside if search.skips(path.name, NO_CHECKPOINTS)]
    if passed_over:
        looked += f"; {passed_over[0].name} is passed over, being a part of a model or of a state to resume from"
    deeper = [] if search.recursive else [found.path for found in find(root, replace(search, recursive=True))]
    if deeper:
        looked += f"; {min(deeper).relative_to(root)} lies deeper: watch its directory, or all of them with --recursive"
    return looked
