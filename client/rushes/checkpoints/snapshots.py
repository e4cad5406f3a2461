"""Checkpoint files: keep them from being rotated away, and tell a complete one from a broken one.

Layout below a run's output directory:

    .rushes/checkpoints/<fingerprint>.safetensors    hard link (or copy) kept until its last sample has ended
    .rushes/spool/<submission>.json                  hand-offs that Redis has not accepted yet
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import logging
import os
import shutil
import time
from pathlib import Path
from typing import Any, BinaryIO, cast

from rushes.errors import CheckpointError, CheckpointFormat, CheckpointIncomplete, CheckpointMissing

logger = logging.getLogger("rushes")

PRIVATE_DIR = ".rushes"
SNAPSHOT_DIR = f"{PRIVATE_DIR}/checkpoints"
SPOOL_DIR = f"{PRIVATE_DIR}/spool"

HEADER_LENGTH_BYTES = 8
MAX_HEADER_BYTES = 100_000_000
"""The safetensors format's own bound; a larger length means the file is something else."""

PICKLE_STARTS = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
"""First bytes of what `torch.save` writes (a zip archive) and of bare pickles."""

HASH_BLOCK = 1 << 20

_serial = itertools.count()


def snapshot(path: str, descriptor: int, directory: Path) -> Path:
    """Keep a file that is open as `descriptor` under a new name in `directory`.

    A hard link while `path` still leads to it and the file system allows one: no data is read or written, and the
    content stays when the trainer deletes its own name. Else a copy of what the descriptor reads.

    Raises:
        OSError: the directory cannot be written.
    """
    directory.mkdir(parents=True, exist_ok=True)
    kept = pending_name(directory)
    with contextlib.suppress(OSError):  # rotated away, another device, no hard links here: the copy says what is wrong
        # link(2) would link a symbolic link itself, whose target can still be deleted.
        os.link(os.path.realpath(path), kept)
        if os.path.samestat(os.fstat(descriptor), kept.stat()):
            return kept
    try:
        kept.unlink(missing_ok=True)  # the name was given to another file meanwhile
        with os.fdopen(os.dup(descriptor), "rb") as source, kept.open("xb") as target:
            shutil.copyfileobj(source, target)
    except OSError:
        with contextlib.suppress(OSError):
            kept.unlink(missing_ok=True)
        raise
    return kept


def pending_name(directory: Path) -> Path:
    """An unused name for a snapshot whose content is not known yet; trainers see a `.safetensors` file."""
    return directory / f"{os.getpid()}-{time.time_ns()}-{next(_serial)}.pending.safetensors"


def adopt(pending: Path, fingerprint: str) -> Path:
    """Give a pending snapshot its final name, by content: the same weights are kept once."""
    final = pending.with_name(f"{fingerprint}.safetensors")
    pending.replace(final)
    pending.unlink(missing_ok=True)  # renaming a link onto another link of the same file removes neither
    return final


def fingerprint(path: str | Path) -> str:
    """SHA-256 of a file's content, 64 hex digits.

    Raises:
        CheckpointMissing: there is no such file.
        CheckpointError: it cannot be read.
    """
    hasher = hashlib.sha256()
    try:
        with Path(path).open("rb") as file:
            while block := file.read(HASH_BLOCK):
                hasher.update(block)
    except OSError as error:
        raise unreadable(path, error) from None
    return hasher.hexdigest()


def read_header(path: str | Path) -> dict[str, Any]:
    """Header of a complete safetensors file: tensor name -> {dtype, shape, data_offsets}, and `__metadata__`.

    Only the header is read; its offsets are held against the file's size, which tells a file that is cut short or
    still being written.

    Raises:
        CheckpointMissing: there is no such file.
        CheckpointIncomplete: the file is shorter than its header says.
        CheckpointFormat: the file is not a safetensors file.
    """
    try:
        with Path(path).open("rb") as file:
            return header_of(path, file)
    except OSError as error:
        raise unreadable(path, error) from None


def header_of(path: str | Path, file: BinaryIO) -> dict[str, Any]:
    """As `read_header`, from an open file, which is left where the tensors begin; `path` is for messages."""
    size = os.fstat(file.fileno()).st_size
    start = file.read(HEADER_LENGTH_BYTES + 1)
    length = int.from_bytes(start[:HEADER_LENGTH_BYTES], "little")
    file.seek(HEADER_LENGTH_BYTES)
    reject_foreign(path, start, length, size)
    header = parse_header(path, file.read(length))
    expected = HEADER_LENGTH_BYTES + length + data_length(path, header)
    if size < expected:
        raise CheckpointIncomplete(
            f"{path}: {size} bytes, but its header promises {expected}; it is cut short or still being written"
        )
    if size > expected:
        raise CheckpointFormat(f"{path}: {size - expected} bytes too many behind the tensors; the file is damaged")
    return header


def unreadable(path: str | Path, error: OSError) -> CheckpointError:
    """What is wrong with a checkpoint that cannot be opened or read."""
    if isinstance(error, (FileNotFoundError, NotADirectoryError, IsADirectoryError)):
        return CheckpointMissing(f"{path}: there is no such checkpoint file")
    return CheckpointError(f"{path}: cannot be read: {error.strerror or error}")


def reject_foreign(path: str | Path, start: bytes, length: int, size: int) -> None:
    """Raise for a file whose first 9 bytes cannot be those of a complete safetensors file.

    The ninth byte opens the header's JSON: a header of 1152 bytes, for one, begins like a pickle.
    """
    if start.startswith(PICKLE_STARTS) and start[HEADER_LENGTH_BYTES:] not in (b"{", b""):
        raise CheckpointFormat(
            f"{path}: this is a pickle (torch.save), which can run code when it is opened; save it as .safetensors"
        )
    if len(start) < HEADER_LENGTH_BYTES:
        raise CheckpointIncomplete(f"{path}: only {size} bytes; it is cut short or still being written")
    if length > MAX_HEADER_BYTES:
        raise CheckpointFormat(f"{path}: not a safetensors file")
    if HEADER_LENGTH_BYTES + length > size:
        raise CheckpointIncomplete(f"{path}: its header is cut short; the file is still being written or damaged")


def parse_header(path: str | Path, raw: bytes) -> dict[str, Any]:
    """The header's JSON object."""
    try:
        header: Any = json.loads(raw)
    except (ValueError, RecursionError):
        header = None
    if not isinstance(header, dict):
        raise CheckpointFormat(f"{path}: not a safetensors file (its header is not a JSON object)")
    found = cast("dict[str, Any]", header)
    if not isinstance(found.get("__metadata__") or {}, dict):
        raise CheckpointFormat(f"{path}: the metadata in its header is not a JSON object; the file is damaged")
    return found


def data_length(path: str | Path, header: dict[str, Any]) -> int:
    """Bytes of tensor data that a header describes."""
    length = 0
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        match entry:
            case {"dtype": str(), "shape": [*sizes], "data_offsets": [int(start), int(end)]} if (
                0 <= start <= end and all(isinstance(size, int) and size >= 0 for size in sizes)
            ):
                length = max(length, end)
            case _:
                raise CheckpointFormat(
                    f"{path}: its header does not say properly what {name} is (dtype, shape, data_offsets); the file "
                    "is damaged"
                )
    return length


def release(path: str | Path) -> None:
    """Remove a snapshot whose last sample has ended, here or in a store. Anything else is left alone.

    What cannot be removed from here (a directory of somebody else's, a store that is away) is said, and stays until the
    trainer looks for what nobody needs.
    """
    if isinstance(path, str) and "://" in path:
        from rushes.checkpoints.store import (
            remove_snapshot,  # the store needs errors and paths of its own, most people none
        )

        remove_snapshot(path)
        return
    path = Path(path)
    if path.parent.parts[-2:] == tuple(SNAPSHOT_DIR.split("/")):
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            logger.warning("rushes: a checkpoint that nobody needs stays: %s", error)
