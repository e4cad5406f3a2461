"""All families by name. A new family is a module of `rows` with its `FAMILIES`, listed in `MODULES`."""

from __future__ import annotations

from collections.abc import Mapping

from rushes.errors import ArchitectureError
from rushes.families.rows import flux, framepack, generic, hunyuan, hunyuan15, kandinsky, qwen, wan, zimage
from rushes.families.spec import ArchitectureSpec

MODULES = (hunyuan, hunyuan15, framepack, wan, flux, qwen, zimage, kandinsky, generic)

ARCHITECTURES: Mapping[str, ArchitectureSpec] = {spec.name: spec for module in MODULES for spec in module.FAMILIES}


def architecture(name: str) -> ArchitectureSpec:
    """The family called `name`.

    Raises:
        ArchitectureError: no such family.
    """
    try:
        return ARCHITECTURES[name]
    except KeyError:
        known = ", ".join(sorted(ARCHITECTURES))
        raise ArchitectureError(f"unknown architecture {name!r}; known: {known}") from None
