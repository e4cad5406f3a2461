"""Conditioning (text embeddings, image embeddings, control latents) kept on disk.

With a full cache the text encoder, often larger than the model itself, is never loaded. A file that cannot be read
is a miss, a cache that cannot be written a warning: neither fails a sample.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from rushes._files import replacing
from rushes.wire.base import digest
from rushes_service.storage.disk_cache import KEY_FIELD, DiskCache

logger = logging.getLogger(__name__)

VERSION = 1
"""Raised when a change here or in a family's encoding makes older files wrong."""

CHECKSUM_FIELD = "rushes_checksum"
"""In a file's metadata. A disk that returns other numbers than were written would make another picture."""

Conditioning = dict[str, torch.Tensor]
"""Tensors by the argument name they are passed under."""


class ConditioningCache:
    """Embeddings by everything they depend on.

    A key is a JSON-able mapping that names the encoder's files, its precision and the input; it is stored in the
    file and compared on reading.

    Args:
        max_bytes: what the files may take; beyond it the one used longest ago goes first.
        variant: as for `variant`, at all times.
    """

    def __init__(self, directory: Path, max_bytes: int | None = None, variant: str | None = None) -> None:
        self.directory = directory
        self._files = DiskCache(directory, max_bytes)
        self._before: Callable[[], object] | None = None
        self._variant = variant

    @contextlib.contextmanager
    def before_computing(self, prepare: Callable[[], object]) -> Iterator[None]:
        """Inside, the first miss calls `prepare` before anything is computed; hits alone never call it."""
        self._before = prepare
        try:
            yield
        finally:
            self._before = None

    @contextlib.contextmanager
    def variant(self, name: str) -> Iterator[None]:
        """Inside, tensors are kept apart from the usual ones, under `name`: they are computed in another way."""
        usual, self._variant = self._variant, name
        try:
            yield
        finally:
            self._variant = usual

    def apart(self, key: Mapping[str, Any]) -> Mapping[str, Any]:
        """`key` as it is stored: with the variant, if there is one."""
        return key if self._variant is None else {**key, "variant": self._variant}

    def path(self, key: Mapping[str, Any]) -> Path:
        """The file of `key`, whether it exists or not."""
        name = digest({**self.apart(key), "version": VERSION}, digits=40)
        return self.directory / name[:2] / f"{name}.safetensors"

    def get(self, key: Mapping[str, Any], compute: Callable[[], Conditioning]) -> Conditioning:
        """Tensors of `key`, on the CPU: read, or computed and stored."""
        found = self.read(key)
        if found is None:
            if self._before is not None:
                prepare, self._before = self._before, None
                prepare()
            found = {name: tensor.cpu().contiguous() for name, tensor in compute().items()}
            self.write(key, found)
        return found

    def read(self, key: Mapping[str, Any]) -> Conditioning | None:
        """Tensors of `key`, or None if they are not there or cannot be read."""
        path = self.path(key)
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                if metadata.get(KEY_FIELD) != canonical(self.apart(key)):
                    return None
                found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
            # Files of earlier versions have no checksum.
            if metadata.get(CHECKSUM_FIELD) not in (None, checksum(found)):
                logger.warning("conditioning cache: %s is damaged and is made anew", path)
                return None
            self._files.touch(path)
            return found
        except FileNotFoundError:
            return None
        except (OSError, SafetensorError) as error:
            logger.warning("conditioning cache: %s cannot be read and is made anew (%s)", path, error)
            return None

    def write(self, key: Mapping[str, Any], tensors: Conditioning) -> None:
        """Store tensors under `key`, whole or not at all."""
        path = self.path(key)
        metadata = {KEY_FIELD: canonical(self.apart(key)), CHECKSUM_FIELD: checksum(tensors)}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as temporary:
                save_file(tensors, temporary, metadata=metadata)
            self._files.trim(newest=path)
        except (OSError, SafetensorError) as error:
            logger.warning("conditioning cache: %s cannot be written (%s); embeddings are not kept", path, error)


def canonical(key: Mapping[str, Any]) -> str:
    """A key as text."""
    return json.dumps(key, sort_keys=True)


def checksum(tensors: Conditioning) -> str:
    """SHA-256 of tensors on the CPU, with their names, in hex."""
    found = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        found.update(memoryview(tensor.contiguous().reshape(-1).view(torch.uint8).numpy()))
    return found.hexdigest()
