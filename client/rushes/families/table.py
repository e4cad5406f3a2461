"""All families by name. A new family is a module of `rows` with its `FAMILIES`, listed in `MODULES`."""

from __future__ import annotations

from collections.abc import Mapping

from rushes.errors import ArchitectureError
from rushes.families.rows import flux, framepack, generic, hunyuan, hunyuan15, kandinsky, qwen, wan, zimage
from rushes.families.spec import ArchitectureSpec

MODULES = (hunyuan, hunyuan15, framepack, wan, flux, qwen, zimage, kandinsky, generic)

ARCHITECTURES: Mapping[str, ArchitectureSpec] = {spec.name: spec for module in MODULES for spec in module.FAMILIES}


NOT_YET: Mapping[str, str] = {
    "ideogram4": "its weights are published in fp8 alone, and its sampler's presets are not served",
    "hidream-o1": "diffusers has no pipeline for it",
}
"""Families that trainers know and nothing here samples, and why."""


def architecture(name: str) -> ArchitectureSpec:
    """The family called `name`.

    Raises:
        ArchitectureError: no such family.
    """
    try:
        return ARCHITECTURES[name]
    except KeyError:
        if name in NOT_YET:
            raise ArchitectureError(f"{name} cannot be sampled yet: {NOT_YET[name]}") from None
        known = ", ".join(sorted(ARCHITECTURES))
        raise ArchitectureError(f"unknown architecture {name!r}; known: {known}") from None
