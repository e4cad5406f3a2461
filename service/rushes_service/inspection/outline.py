"""Which modules of a file a family's models have, without one of those models."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable
from pathlib import Path

import torch

from rushes.wire.jobs import ModelSpec
from rushes_service.lora.reading.keys import split
from rushes_service.models.loading.from_repo import quiet_loading_bars
from rushes_service.models.registry import find
from rushes_service.models.tiny import build_tiny

NUMBER = re.compile(r"(blocks[._])\d+(?=[._]|$)")


def unmatched_modules(architecture: str, keys: Iterable[str]) -> list[str]:
    """Modules of a file that no model of `architecture` has.

    Names only: the family's tiny model has every kind of block, and all blocks of a kind have the same modules.

    Raises:
        ArchitectureError: the family is unknown, or has no tiny model.
    """
    quiet_loading_bars()
    with tempfile.TemporaryDirectory() as scratch:
        model = ModelSpec(architecture=architecture, model=str(build_tiny(architecture, Path(scratch) / "model")))
        base = find(architecture)(model, torch.device("cpu"), torch.float32)
        base.load()
        names = base.lora_names()
        flat = {NUMBER.sub(r"\g<1>0", name) for name in names.flat}
    found = dict.fromkeys((key.name, key.part) for key in map(split, keys) if key.part)
    unknown = (
        name
        for name, part in found
        if NUMBER.sub(r"\g<1>0", name.replace(".", "_")) not in flat
        and not names.bare(NUMBER.sub(r"\g<1>0", name), part)
    )
    return list(dict.fromkeys(unknown))
