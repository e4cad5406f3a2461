"""Checkpoints of a run: those that were sampled, and the files beside them that never were."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pydantic import Field

from rushes.checkpoints.adapters import checkpoint_header, is_checkpoint_directory
from rushes.checkpoints.safetensors import METADATA
from rushes.client.client import Client
from rushes.errors import CheckpointError
from rushes.watch.names import epoch_of_metadata, place_of_directory, place_of_file, step_of
from rushes.wire.base import FrozenModel
from rushes_service.catalogue.entries import Entry
from rushes_service.catalogue.reading import read_entries

MAX_FILES = 1000
"""Files of a directory that are read."""


class Known(FrozenModel):
    """One checkpoint file."""

    path: str = Field(description="Where the file is, or was when it was sampled.")
    step: int = 0
    epoch: int | None = None
    fingerprint: str | None = Field(default=None, description="SHA-256 of the content, once it has been sampled.")
    samples: int = Field(default=0, description="Samples made or to be made of it.")
    kept: bool = Field(description="True while the file is there, so that it can be sampled again.")


def checkpoints_of(client: Client, run: str, allowed: Callable[[Path], bool]) -> list[Known]:
    """Checkpoints of a run by step. Only directories that `allowed` accepts are searched for others."""
    entries = list(read_entries(client, run))
    sampled = list(sampled_checkpoints(entries))
    seen = {Path(known.path) for known in sampled}
    directories = {Path(entry.job["output_dir"]) for entry in entries if entry.job.get("output_dir")}
    directories |= {path.parent for path in seen if ".rushes" not in path.parts}
    found = [
        on_disk(path)
        for directory in sorted(directories)
        if allowed(directory.resolve())
        for path in files_in(directory)
        if path not in seen
    ]
    return sorted([*sampled, *found], key=lambda known: (known.step, known.path))


def sampled_checkpoints(entries: list[Entry]) -> Iterator[Known]:
    """Each checkpoint that has samples, once."""
    found: dict[tuple[str, int], Known] = {}
    for entry in entries:
        checkpoint = entry.job.get("checkpoint")
        if not checkpoint:
            continue
        key = (checkpoint["fingerprint"], entry.job.get("step", 0))
        before = found.get(key)
        if before is None:
            path = existing(checkpoint)
            found[key] = Known(
                path=path or checkpoint.get("source") or checkpoint["path"],
                step=entry.job.get("step", 0),
                epoch=entry.job.get("epoch"),
                fingerprint=checkpoint["fingerprint"],
                samples=1,
                kept=path is not None,
            )
        else:
            found[key] = before.model_copy(update={"samples": before.samples + 1})
    yield from found.values()


def existing(checkpoint: dict[str, Any]) -> str | None:
    """The first of a checkpoint's paths that leads to a file, or to an adapter's directory."""
    candidates = (checkpoint.get("source"), checkpoint.get("path"))
    return next((p for p in candidates if p and (Path(p).is_file() or is_checkpoint_directory(p))), None)


def files_in(directory: Path) -> list[Path]:
    """Checkpoints directly in a directory, at most `MAX_FILES`: files, and adapters' directories."""
    try:
        files = [path for path in directory.glob("*.safetensors") if path.is_file()]
        adapters = [path for path in directory.glob("*/") if is_checkpoint_directory(path)]
        return sorted([*files, *adapters])[:MAX_FILES]
    except OSError:
        return []


def on_disk(path: Path) -> Known:
    """A checkpoint that was never sampled; its step by its metadata, else by its name."""
    try:
        metadata = checkpoint_header(path).get(METADATA) or {}
    except CheckpointError:
        return Known(path=str(path), step=0, kept=False)
    place = (place_of_directory(path.name) if path.is_dir() else None) or place_of_file(path.stem)
    epoch = epoch_of_metadata(metadata)
    return Known(
        path=str(path),
        step=step_of(place, metadata, 0),
        epoch=place.epoch if epoch is None else epoch,
        kept=True,
    )
