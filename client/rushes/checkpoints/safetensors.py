"""The safetensors format as far as its header goes: what is in a file, and whether all of it is there.

Reads names, shapes and metadata, never tensors; needs no other package.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any, BinaryIO, cast

from rushes._platform import open_shared
from rushes.errors import CheckpointError, CheckpointFormat, CheckpointIncomplete, CheckpointMissing

HEADER_LENGTH_BYTES = 8
"""A file begins with the length of its header, little endian."""

MAX_HEADER_BYTES = 100_000_000
"""The safetensors format's own bound; a larger length means that the file is something else."""

PICKLE_STARTS = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
"""First bytes of what `torch.save` writes (a zip archive) and of bare pickles."""

HASH_BLOCK = 1 << 20

METADATA = "__metadata__"
"""The header's entry that is no tensor."""


def fingerprint(path: str | Path) -> str:
    """SHA-256 of a file's content, 64 hex digits.

    Raises:
        CheckpointMissing: there is no such file.
        CheckpointError: it cannot be read.
    """
    hasher = hashlib.sha256()
    try:
        with open(path, "rb", opener=open_shared) as file:
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
        with open(path, "rb", opener=open_shared) as file:
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


def data_start(length: bytes) -> int:
    """Where a file's tensors begin, in bytes from its start, by its first `HEADER_LENGTH_BYTES` bytes."""
    return HEADER_LENGTH_BYTES + int.from_bytes(length, "little")


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
    if not isinstance(found.get(METADATA) or {}, dict):
        raise CheckpointFormat(f"{path}: the metadata in its header is not a JSON object; the file is damaged")
    return found


def data_length(path: str | Path, header: dict[str, Any]) -> int:
    """Bytes of tensor data that a header describes."""
    length = 0
    for name, entry in header.items():
        if name == METADATA:
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
