"""PEFT adapters: a directory of weights and a configuration, kept as one file.

    adapter/adapter_config.json          rank, alpha, what was trained
    adapter/adapter_model.safetensors    the tensors; alone they do not say how strongly they act

As a snapshot both become one safetensors file: the same tensors with the configuration in the header's metadata. The
fingerprint of a directory is that of the file it becomes, so it is the same wherever it is read.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from rushes.checkpoints.safetensors import HASH_BLOCK, HEADER_LENGTH_BYTES, METADATA, header_of, unreadable
from rushes.errors import CheckpointFormat

ADAPTER_CONFIG = "adapter_config.json"
WEIGHTS_NAME = "adapter_model.safetensors"
PICKLE_NAME = "adapter_model.bin"

CONFIG_KEY = "adapter_config"
"""In the metadata of the file that a directory becomes."""

ALIGNMENT = 8
"""Bytes to which a header is padded, so that tensors behind it can be mapped."""


def is_adapter_directory(path: str | Path) -> bool:
    """True for a directory that holds a PEFT adapter, complete or not."""
    path = Path(path)
    return path.is_dir() and any((path / name).is_file() for name in (ADAPTER_CONFIG, WEIGHTS_NAME, PICKLE_NAME))


def adapter_config(directory: str | Path) -> str:
    """Text of a directory's `adapter_config.json`.

    Raises:
        CheckpointMissing: it has no configuration.
        CheckpointFormat: the directory is no PEFT adapter, its weights are a pickle, or the configuration is no text.
    """
    directory = Path(directory)
    if not (directory / WEIGHTS_NAME).is_file():
        if (directory / PICKLE_NAME).is_file():
            raise CheckpointFormat(
                f"{directory / PICKLE_NAME}: this is a pickle, which can run code when it is opened; save the adapter "
                "with safe_serialization=True"
            )
        raise CheckpointFormat(
            f"{directory}: is not a file, and no PEFT adapter either (it has no {WEIGHTS_NAME}); give the .safetensors "
            "file itself"
        )
    try:
        return (directory / ADAPTER_CONFIG).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise CheckpointFormat(f"{directory / ADAPTER_CONFIG}: not a text file: {error}") from None
    except OSError as error:
        raise unreadable(directory / ADAPTER_CONFIG, error) from None


def packed_header(entries: Mapping[str, Any], metadata: Mapping[str, str]) -> bytes:
    """The start of a safetensors file, up to its data, with `metadata` in it."""
    header = {METADATA: dict(sorted(metadata.items())), **entries}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    return len(text).to_bytes(HEADER_LENGTH_BYTES, "little") + text


def packed(weights: Path, file: BinaryIO, config: str) -> Iterator[bytes]:
    """The one file that an adapter becomes, in blocks.

    Args:
        weights: path of its tensors, for messages.
        file: its tensors, open for reading.
    """
    header = header_of(weights, file)
    metadata = {**header.pop(METADATA, {}), CONFIG_KEY: config}
    yield packed_header(header, metadata)
    while block := file.read(HASH_BLOCK):
        yield block


def adapter_fingerprint(directory: str | Path) -> str:
    """SHA-256 of the file that an adapter directory becomes.

    Raises:
        CheckpointError: as `adapter_config` and `rushes.checkpoints.safetensors.read_header`.
    """
    config = adapter_config(directory)
    weights = Path(directory) / WEIGHTS_NAME
    hasher = hashlib.sha256()
    try:
        with weights.open("rb") as file:
            for block in packed(weights, file, config):
                hasher.update(block)
    except OSError as error:
        raise unreadable(weights, error) from None
    return hasher.hexdigest()


def pack_into(target: Path, source: str, descriptor: int, config: str) -> Path:
    """Write the one file that an adapter becomes.

    Args:
        target: a new file.
        source: the adapter's directory, for messages.
        descriptor: open on its tensors; they may have been deleted by now.

    Raises:
        CheckpointError: the tensors are no complete safetensors file.
        OSError: the file cannot be written.
    """
    with os.fdopen(os.dup(descriptor), "rb") as file, target.open("xb") as out:
        for block in packed(Path(source) / WEIGHTS_NAME, file, config):
            out.write(block)
    return target
