"""Adapters that are more than one file: a directory, or a file with its configuration beside it.

    adapter/adapter_config.json                 PEFT: rank, alpha, what was trained
    adapter/adapter_model.safetensors           the tensors; alone they do not say how strongly they act
    checkpoint/pytorch_lora_weights.safetensors diffusers: the configuration, if there is one, is in the file

As a snapshot an adapter becomes one safetensors file: the same tensors with the configuration in the header's metadata.
The fingerprint of an adapter is that of the file it becomes, so it is the same wherever it is read.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from rushes._platform import open_shared
from rushes.checkpoints.safetensors import (
    HASH_BLOCK,
    HEADER_LENGTH_BYTES,
    METADATA,
    fingerprint,
    header_of,
    read_header,
    unreadable,
)
from rushes.errors import CheckpointFormat, CheckpointMissing

ADAPTER_CONFIG = "adapter_config.json"
WEIGHTS_NAME = "adapter_model.safetensors"
DIFFUSERS_NAME = "pytorch_lora_weights.safetensors"
PICKLE_NAMES = ("adapter_model.bin", "pytorch_lora_weights.bin")

ADAPTER_STEM = "adapter_model"
"""What PEFT calls the files whose configuration lies beside them."""

CONFIG_KEY = "adapter_config"
"""In the metadata of the file that an adapter becomes."""

ALIGNMENT = 8
"""Bytes to which a header is padded, so that tensors behind it can be mapped."""


class AdapterFiles(NamedTuple):
    """The file with the tensors of a checkpoint, and the text of the configuration beside it; None if it has none."""

    weights: Path
    config: str | None


def is_checkpoint_directory(path: str | Path) -> bool:
    """True for a directory that holds an adapter, complete or not."""
    path = Path(path)
    names = (ADAPTER_CONFIG, WEIGHTS_NAME, DIFFUSERS_NAME, *PICKLE_NAMES)
    return path.is_dir() and any((path / name).is_file() for name in names)


def adapter_files(path: str | Path) -> AdapterFiles:
    """What a checkpoint consists of.

    Args:
        path: a file, or an adapter's directory.

    Raises:
        CheckpointMissing: a PEFT adapter has no configuration.
        CheckpointFormat: the directory is no adapter, its weights are a pickle, or the configuration is no text.
    """
    path = Path(path)
    if not path.is_dir():
        config = config_beside(path)
        return AdapterFiles(path, None if config is None else config_text(config))
    weights = weights_in(path)
    config = path / ADAPTER_CONFIG
    if weights.name == DIFFUSERS_NAME and not config.is_file():
        return AdapterFiles(weights, None)
    return AdapterFiles(weights, config_text(config))


def checkpoint_header(path: str | Path) -> dict[str, Any]:
    """Header of a complete checkpoint, a file or an adapter's directory, as `safetensors.read_header` returns it.

    Raises:
        CheckpointError: it is not complete, or no checkpoint.
    """
    return read_header(adapter_files(path).weights)


def weights_in(directory: Path) -> Path:
    """The file with the tensors of an adapter's directory.

    Raises:
        CheckpointFormat: there is none, there are two, or it is a pickle.
    """
    there = [directory / name for name in (WEIGHTS_NAME, DIFFUSERS_NAME) if (directory / name).is_file()]
    if len(there) > 1:
        raise CheckpointFormat(f"{directory}: holds {there[0].name} and {there[1].name}; give the file that is meant")
    if there:
        return there[0]
    for name in PICKLE_NAMES:
        if (directory / name).is_file():
            raise CheckpointFormat(
                f"{directory / name}: this is a pickle, which can run code when it is opened; save the adapter "
                "with safe_serialization=True"
            )
    raise CheckpointFormat(
        f"{directory}: is not a file, and no adapter either (it has no {WEIGHTS_NAME} and no {DIFFUSERS_NAME}); give "
        "the .safetensors file itself"
    )


def config_beside(weights: Path) -> Path | None:
    """The `adapter_config.json` that belongs to a file named by itself; None if none does.

    It belongs to PEFT's `adapter_model.safetensors`, or to a file of another name that is the only one beside it.
    """
    config = weights.with_name(ADAPTER_CONFIG)
    if not config.is_file():
        return None
    if weights.name.startswith(ADAPTER_STEM):
        return config
    others = {file.name for file in config.parent.glob("*.safetensors")} - {weights.name}
    return None if others else config


def config_text(config: Path) -> str:
    """Text of an `adapter_config.json`, without a byte order mark.

    Raises:
        CheckpointMissing: it is not there.
        CheckpointFormat: it is no text.
    """
    try:
        return config.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise CheckpointFormat(f"{config}: not a text file: {error}") from None
    except FileNotFoundError:
        raise CheckpointMissing(
            f"{config}: there is no such file, and without it the adapter's alpha is unknown"
        ) from None
    except OSError as error:
        raise unreadable(config, error) from None


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


def checkpoint_fingerprint(path: str | Path) -> str:
    """SHA-256 of a checkpoint: of a file, or of the one file that an adapter with a configuration beside it becomes.

    Raises:
        CheckpointError: as `adapter_files` and `rushes.checkpoints.safetensors.read_header`.
    """
    weights, config = adapter_files(path)
    if config is None:
        return fingerprint(weights)
    hasher = hashlib.sha256()
    try:
        with open(weights, "rb", opener=open_shared) as file:
            for block in packed(weights, file, config):
                hasher.update(block)
    except OSError as error:
        raise unreadable(weights, error) from None
    return hasher.hexdigest()


def pack_into(target: Path, weights: str | Path, descriptor: int, config: str) -> Path:
    """Write the one file that an adapter becomes.

    Args:
        target: a new file.
        weights: the file with its tensors, for messages.
        descriptor: open on it; it may have been deleted by now.

    Raises:
        CheckpointError: the tensors are no complete safetensors file.
        OSError: the file cannot be written.
    """
    with os.fdopen(os.dup(descriptor), "rb") as file, target.open("xb") as out:
        for block in packed(Path(weights), file, config):
            out.write(block)
    return target
