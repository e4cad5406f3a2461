"""Two files for the two transformers of one model (Wan2.2), made one."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

from rushes.checkpoints.adapters import CONFIG_KEY, packed_header
from rushes.checkpoints.safetensors import HASH_BLOCK, METADATA, header_of
from rushes.wire.models import Expert

EXPERTS_KEY = "experts"
"""In the metadata of the file that two become: the metadata of each, as JSON."""


def packed_pair(files: Mapping[Expert, tuple[Path, BinaryIO, str | None]]) -> Iterator[bytes]:
    """The one file that the files of both experts become, in blocks: names begin with `high_noise.` and `low_noise.`.

    Args:
        files: by expert: path for messages, the file open for reading, the adapter's configuration.

    Raises:
        CheckpointError: one is no complete safetensors file.
    """
    entries: dict[str, Any] = {}
    told: dict[str, Any] = {}
    start = 0
    for expert, (path, file, config) in files.items():
        header = header_of(path, file)
        own = cast("dict[str, str]", header.pop(METADATA, None) or {})
        told[expert] = own if config is None else {**own, CONFIG_KEY: config}
        for name, entry in header.items():
            offsets = [offset + start for offset in entry["data_offsets"]]
            entries[f"{expert}_noise.{name}"] = {**entry, "data_offsets": offsets}
        start += max((entry["data_offsets"][1] for entry in header.values()), default=0)
    shared = dict(told["low"].items() & told["high"].items()) if len(told) == 2 else {}
    yield packed_header(entries, {**shared, EXPERTS_KEY: json.dumps(told, sort_keys=True)})
    for _, file, _ in files.values():
        while block := file.read(HASH_BLOCK):
            yield block
