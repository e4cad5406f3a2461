"""Files of weights: found, read in one go, checked against the hash that was submitted.

An adapter may be a directory, or have its configuration beside it. Kept as a snapshot it is one file: the same tensors,
with the configuration in the header's metadata (see `rushes.checkpoints.adapters`).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from rushes.checkpoints.adapters import CONFIG_KEY, adapter_files, is_checkpoint_directory
from rushes.checkpoints.adapters import packed_header as header_bytes
from rushes.checkpoints.safetensors import HEADER_LENGTH_BYTES, METADATA, data_start, read_header, unreadable
from rushes.errors import CheckpointFormat, CheckpointIncomplete, CheckpointMissing
from rushes.wire.jobs import Checkpoint
from rushes_service.lora.reading.statements import ALPHAS, Statement, statements
from rushes_service.runtime.devices import STORED_DTYPES
from rushes_service.runtime.pinned import pinned_bytes

SHA256_HEX = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class WeightsFile:
    """The content of a file. Its tensors share one buffer on the CPU, in the file's own precision.

    `statements` are what its header, and the configuration beside it, say of its adapters' strength.
    """

    path: Path
    sha256: str
    tensors: Mapping[str, torch.Tensor]
    metadata: Mapping[str, str] = field(default_factory=dict)
    statements: tuple[Statement, ...] = ()
    bytes: int = 0


def locate(checkpoint: Checkpoint) -> Path:
    """The file or adapter directory of `checkpoint`: its snapshot, else where the trainer wrote it.

    Whole, going by its header.

    Raises:
        CheckpointMissing, CheckpointIncomplete, CheckpointFormat: as `rushes.checkpoints.safetensors.read_header`.
    """
    places = [Path(place) for place in (checkpoint.path, checkpoint.source) if place]
    for place in places:
        if is_checkpoint_directory(place) or place.is_file():
            read_header(adapter_files(place).weights)
            return place
    tried = " nor at ".join(str(place) for place in dict.fromkeys(places))
    raise CheckpointMissing(f"no checkpoint at {tried}; was it deleted, or is the directory not mounted here?")


def read_file(
    place: Path, *, expected: str | None = None, pin: bool = False, called: Path | None = None
) -> WeightsFile:
    """Read a whole file, or an adapter directory, in one go.

    Args:
        expected: SHA-256 that the submitter saw. A file with another one has been overwritten since.
        called: the file as people know it, for messages; a snapshot's own name says nothing and goes.
        pin: read into page-locked memory, from which uploads to a GPU are asynchronous.

    Raises:
        CheckpointError: it is not there, cut short, no safetensors file, or not the one submitted.
    """
    path, config = adapter_files(place)
    header = read_header(path)
    raw = read_bytes(path, pin)
    plain = digest(b"", raw)
    sha256 = plain if config is None else digest(packed_header(header, config), data_of(raw))
    # Earlier versions knew a file by its tensors alone, also where its configuration lay beside it.
    known = (sha256, plain) if not place.is_dir() else (sha256,)
    if expected is not None and SHA256_HEX.fullmatch(expected) and expected not in known:
        raise CheckpointMissing(f"{place} was overwritten since it was submitted: another file lies there now")
    return weights_file(called or place, sha256, header, config, raw)


def open_file(place: Path) -> WeightsFile:
    """A file whose tensors are read as they are used; its hash is not known.

    Raises:
        CheckpointError: as `read_file`.
    """
    path, config = adapter_files(place)
    header = read_header(path)
    raw = torch.from_file(str(path), shared=False, size=path.stat().st_size, dtype=torch.uint8)
    return weights_file(place, "", header, config, raw)


def weights_file(
    place: Path, sha256: str, header: Mapping[str, Any], config: str | None, raw: torch.Tensor
) -> WeightsFile:
    """The content of a file from its header and its bytes.

    Raises:
        CheckpointFormat: a tensor, or a statement of its strength, cannot be read.
    """
    entries = {name: entry for name, entry in header.items() if name != METADATA}
    metadata = {str(key): str(value) for key, value in (header.get(METADATA) or {}).items()}
    if config is not None:
        metadata[CONFIG_KEY] = config
    data = data_of(raw)
    tensors = {name: view(place, name, entry, data) for name, entry in entries.items()}
    for name in ALPHAS:  # one for all modules, among the tensors
        if name in tensors and tensors[name].numel() == 1:
            metadata[name] = f"{float(tensors.pop(name)):g}"
    return WeightsFile(place, sha256, tensors, metadata, statements(place, metadata), len(raw))


def packed_header(header: Mapping[str, Any], config: str) -> bytes:
    """The start of the one file that an adapter and its configuration become as a snapshot."""
    entries = {name: entry for name, entry in header.items() if name != METADATA}
    return header_bytes(entries, {**(header.get(METADATA) or {}), CONFIG_KEY: config})


def data_of(raw: torch.Tensor) -> torch.Tensor:
    """A file's bytes behind its header."""
    return raw[data_start(bytes(raw[:HEADER_LENGTH_BYTES].numpy())) :]


def read_bytes(path: Path, pin: bool) -> torch.Tensor:
    """A file's bytes, uint8 [size]."""
    try:
        with path.open("rb", buffering=0) as file:
            size = path.stat().st_size
            raw = pinned_bytes(size) if pin else torch.empty(size, dtype=torch.uint8)
            rest = memoryview(raw.numpy())
            while rest and (count := file.readinto(rest)):
                rest = rest[count:]
    except OSError as error:
        raise unreadable(path, error) from None
    if rest:
        raise CheckpointIncomplete(f"{path}: it shrank while it was read; is it still being written?")
    return raw


def digest(head: bytes, data: torch.Tensor) -> str:
    """SHA-256 of bytes and a tensor's bytes behind them."""
    hasher = hashlib.sha256(head)
    hasher.update(memoryview(data.numpy()))
    return hasher.hexdigest()


def view(path: Path, name: str, entry: Mapping[str, Any], data: torch.Tensor) -> torch.Tensor:
    """One tensor of the file's data section."""
    if entry["dtype"] not in STORED_DTYPES:
        raise CheckpointFormat(f"{path}: its tensor {name} is of type {entry['dtype']}, which is not read")
    try:
        dtype = STORED_DTYPES[entry["dtype"]]
        start, stop = entry["data_offsets"]
        part = data[start:stop]
        if (part.data_ptr() % dtype.itemsize) or (stop - start) % dtype.itemsize:
            part = part.clone()
        return part.view(dtype).view(entry["shape"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointFormat(f"{path}: its tensor {name} cannot be read ({error}); the file is damaged") from error
