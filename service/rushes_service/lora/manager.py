"""The LoRAs of one loaded model: the files read so far, and those merged into the weights."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rushes.wire.jobs import Checkpoint, SampleJob
from rushes.wire.models import Expert
from rushes_service.lora.ahead import FilesAhead
from rushes_service.lora.merge import LoraMerger
from rushes_service.lora.reading import Lora, facts_of, read_lora
from rushes_service.lora.reading.files import locate
from rushes_service.lora.targets import NameTable
from rushes_service.lora.text_encoders import TextLoras, encoders_in, without_texts
from rushes_service.runtime.devices import CPU

LoraKey = tuple[str, Expert | None, bool, bool]
"""What a file that was read is known by: its content, the expert it is for, and what was allowed."""


@dataclass(frozen=True)
class RequestedLora:
    """A file that is to be in the weights. `extra` is False for the job's checkpoint."""

    place: Path
    fingerprint: str
    strength: float
    extra: bool
    expert: Expert | None = None
    called: Path | None = None
    """What the trainer wrote, for messages."""


def requested_loras(job: SampleJob) -> tuple[RequestedLora, ...]:
    """The files of a job, the checkpoint first; each is there and whole, going by its header.

    Raises:
        CheckpointError: one is not.
    """
    found = []
    if job.checkpoint is not None:
        found.append(requested(job.checkpoint, job.strength, extra=False))
    for lora in job.loras:
        file = Checkpoint(path=lora.path, fingerprint=lora.fingerprint, expert=lora.expert)
        found.append(requested(file, lora.strength, extra=True))
    return tuple(found)


def requested(file: Checkpoint, strength: float, *, extra: bool) -> RequestedLora:
    """One file of a job. Messages name what the trainer wrote: a snapshot goes with its last sample."""
    called = Path(file.source) if file.source else None
    return RequestedLora(locate(file), file.fingerprint, strength, extra, file.expert, called)


def without_strength(file: RequestedLora) -> RequestedLora:
    """`file` as it is read."""
    return replace(file, strength=1.0, extra=False)


class LoraManager:
    """Brings a model's weights to the LoRAs of a job. Files are read once: a new strength needs none.

    Args:
        names: what module names in files mean; asked only when a file is read.
        family: the model's family, for messages.
        device: where weights are changed that lie on the CPU; by default there.
    """

    def __init__(
        self, model: nn.Module, names: Callable[[], NameTable], family: str, device: torch.device = CPU
    ) -> None:
        self.merger = LoraMerger(model, device)
        self._names = functools.cache(names)
        self._family = family
        self._pin = device.type == "cuda"
        self._read: dict[LoraKey, Lora] = {}
        self.ahead = FilesAhead()
        self._applied: tuple[tuple[RequestedLora, Lora], ...] = ()

    def apply(
        self, files: Sequence[RequestedLora], *, allow_partial: bool = False, allow_other_family: bool = False
    ) -> bool:
        """Make the weights the base with `files` in it; True if weights had to be written.

        Raises:
            CheckpointError, LoraError: a file is wrong. The weights are as before.
        """
        keys = [(file.fingerprint, file.expert, allow_partial, allow_other_family) for file in files]
        # Files that this sample does not use go first: they may be as large as the model.
        self._read = {key: lora for key, lora in self._read.items() if key in keys}
        for key, file in zip(keys, files, strict=True):
            if key not in self._read:
                allowed = allow_partial, allow_other_family
                self._read[key] = self.ahead.take((without_strength(file), *allowed), file) or self._load(
                    file, *allowed
                )
        self._applied = tuple((file, self._read[key]) for key, file in zip(keys, files, strict=True))
        return self.merger.merge([(without_texts(lora), file.strength) for file, lora in self._applied])

    def read_ahead(self, files: Sequence[RequestedLora], *, allow_partial: bool, allow_other_family: bool) -> None:
        """Read the files of a later sample, in another thread; raises as `apply`."""
        allowed = allow_partial, allow_other_family
        known = {key[0] for key in self._read}
        wanted = {(without_strength(file), *allowed): file for file in files if file.fingerprint not in known}
        self.ahead.read(wanted, lambda key: self._load(wanted[key], *allowed))

    def prepare_names(self) -> None:
        """Ask for the names now, so that another thread need not."""
        self._names()

    @property
    def texts(self) -> TextLoras:
        """What is to be merged into the text encoders."""
        return TextLoras(tuple((lora, file.strength) for file, lora in self._applied))

    def forget(self, *, restore: bool) -> None:
        """Give back all files and copies; no thread may be reading ahead.

        Args:
            restore: bring the weights back to the base before. Otherwise others take their place.
        """
        if restore:
            self.merger.restore()
        self.merger.forget()
        self.ahead.forget()
        self._read, self._applied = {}, ()

    def leave_device(self) -> None:
        """Move what is kept of the base weights to host memory."""
        self.merger.leave_device()

    def _load(self, file: RequestedLora, allow_partial: bool, allow_other_family: bool) -> Lora:
        return read_lora(
            file.place,
            self._names(),
            self.merger.shapes,
            family=self._family,
            expected=file.fingerprint,
            allow_partial=allow_partial,
            allow_other_family=allow_other_family,
            expert=file.expert,
            called=file.called,
            pin=self._pin,
        )

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is to be said about the files in the weights."""
        return tuple(warning for _, lora in self._applied for warning in lora.warnings)

    def facts(self) -> dict[str, Any]:
        """What the receipt says: the checkpoint as `lora` (None for the base model), the others as `loras`."""
        entries = [(file.extra, self._entry(file, lora)) for file, lora in self._applied]
        return {
            "lora": next((entry for extra, entry in entries if not extra), None),
            "loras": [entry for extra, entry in entries if extra],
        }

    def _entry(self, file: RequestedLora, lora: Lora) -> dict[str, Any]:
        idle = file.strength == 0
        texts = encoders_in(lora)
        merged = "none (strength 0 is the base model)" if idle else self.merger.mode
        return {
            **facts_of(lora, file.strength),
            "fingerprint": file.fingerprint,
            "merge": merged,
            "merge_precision": None if idle else self.merger.precision,
            **({"text_encoders": texts} if texts else {}),
        }
