"""Which class samples which family. Classes are imported when they are first needed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from rushes.errors import ArchitectureError
from rushes.families.table import architecture
from rushes_service.models import rooms

if TYPE_CHECKING:
    from rushes_service.models.base import Architecture

SAMPLERS: Mapping[str, tuple[str, str]] = {name: (room, family.sampler) for room, name, family in rooms.families()}
"""By family: its room, and the class in it as "module:name"."""


def find(name: str) -> type[Architecture]:
    """The class that samples the family called `name`.

    Raises:
        ArchitectureError: no such family, or none that can be sampled yet.
    """
    spec = architecture(name)
    if not spec.sampled or name not in SAMPLERS:
        raise ArchitectureError(f"{name} cannot be sampled yet; these can: {', '.join(sorted(SAMPLERS))}")
    return rooms.in_room(*SAMPLERS[name])  # type: ignore[no-any-return]
