"""Which modules of a file a family's models have, without one of those models."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

import torch

from rushes.wire.models import ModelSpec
from rushes_service.lora.reading.files import open_file
from rushes_service.lora.reading.grouping import keys_of
from rushes_service.lora.reading.read import other_family
from rushes_service.lora.targets import NameTable
from rushes_service.models.loading.from_repo import quiet_loading_bars
from rushes_service.models.registry import find
from rushes_service.models.tiny import build_tiny

NUMBER = re.compile(r"(blocks[._])\d+(?=[._]|$)")


def unmatched_modules(architecture: str, place: Path) -> list[str]:
    """Modules of a file that no model of `architecture` has.

    Names only: the family's tiny model has every kind of block, and all blocks of a kind have the same modules.

    Raises:
        ArchitectureError: the family is unknown, or has no tiny model.
        CheckpointError: the file cannot be read.
    """
    quiet_loading_bars()
    with tempfile.TemporaryDirectory() as scratch:
        model = ModelSpec(architecture=architecture, model=str(build_tiny(architecture, Path(scratch) / "model")))
        base = find(architecture)(model, torch.device("cpu"), torch.float32)
        base.load()
        names = base.lora_names()
        flat = {NUMBER.sub(r"\g<1>0", name) for name in names.flat}
    unknown = (
        key.name
        for key in keys_of(open_file(place)).values()
        if key.part and not any(has_place(name, key.part, names, flat) for name in key.names)
    )
    return list(dict.fromkeys(unknown))


def has_place(name: str, part: str, names: NameTable, flat: set[str]) -> bool:
    """True for a module of some block, or a parameter without a module."""
    first = NUMBER.sub(r"\g<1>0", name)
    return first.replace(".", "_") in flat or bool(names.bare(first, part))


def other_family_of(architecture: str, place: Path) -> str | None:
    """Says which family a file is of, if it is not `architecture`."""
    return other_family(open_file(place), architecture)
