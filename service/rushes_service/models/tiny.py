"""A tiny model of every family, by the family's name: for tests and for trying things out, offline."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rushes.errors import ArchitectureError
from rushes_service.models import rooms

BUILDERS: Mapping[str, tuple[str, str]] = {name: (room, family.tiny_model) for room, name, family in rooms.families()}
"""By family: its room, and the function in it as "module:name"."""


def build_tiny(architecture: str, directory: Path) -> Path:
    """Write a tiny model of the family called `architecture` to `directory` and return it.

    Raises:
        ArchitectureError: there is no tiny model of that family.
        ConfigError: `directory` exists and holds something else.
    """
    if architecture not in BUILDERS:
        known = ", ".join(sorted(BUILDERS))
        raise ArchitectureError(f"there is no tiny model of {architecture!r}, only of {known}")
    return rooms.in_room(*BUILDERS[architecture])(directory)  # type: ignore[no-any-return]
