"""Which class samples which family. Classes are imported when they are first needed."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from rushes.architectures import architecture
from rushes.errors import ArchitectureError

if TYPE_CHECKING:
    from rushes_service.architectures.base import Architecture

SAMPLERS = {
    "wan2.1-t2v": "rushes_service.architectures.wan:WanTextToVideo",
}


def find(name: str) -> type[Architecture]:
    """The class that samples the family called `name`.

    Raises:
        ArchitectureError: no such family, or none that can be sampled yet.
    """
    spec = architecture(name)
    if not spec.sampled or name not in SAMPLERS:
        raise ArchitectureError(f"{name} cannot be sampled yet; these can: {', '.join(sorted(SAMPLERS))}")
    module, _, kind = SAMPLERS[name].partition(":")
    return getattr(importlib.import_module(module), kind)
