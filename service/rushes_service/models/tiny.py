"""A tiny model of every family, by the family's name: for tests and for trying things out, offline."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path

from rushes.errors import ArchitectureError

BUILDERS: Mapping[str, str] = {
    "hunyuan-video": "rushes_service.models.hunyuan.tiny:build_tiny_hunyuan",
    "hunyuan-video-i2v": "rushes_service.models.hunyuan.tiny:build_tiny_hunyuan_i2v",
    "skyreels-v1-t2v": "rushes_service.models.hunyuan.tiny:build_tiny_hunyuan",
    "skyreels-v1-i2v": "rushes_service.models.hunyuan.tiny:build_tiny_skyreels_i2v",
    "framepack": "rushes_service.models.framepack.tiny:build_tiny_framepack",
    "framepack-one-frame": "rushes_service.models.framepack.tiny:build_tiny_framepack",
    "flux1-kontext": "rushes_service.models.flux.tiny:build_tiny_flux",
    "wan2.1-fun-control": "rushes_service.models.wan.tiny_variants:build_tiny_wan_fun_control",
    "wan2.1-i2v": "rushes_service.models.wan.tiny_variants:build_tiny_wan_i2v",
    "wan2.1-t2v": "rushes_service.models.wan.tiny:build_tiny_wan",
    "wan2.2-t2v-a14b": "rushes_service.models.wan.tiny_variants:build_tiny_wan22_t2v",
}
"""Functions `(directory) -> directory`. They are deterministic and reuse a directory that is complete already."""


def build_tiny(architecture: str, directory: Path) -> Path:
    """Write a tiny model of the family called `architecture` to `directory` and return it.

    Raises:
        ArchitectureError: there is no tiny model of that family.
        ConfigError: `directory` exists and holds something else.
    """
    try:
        module, _, function = BUILDERS[architecture].partition(":")
    except KeyError:
        known = ", ".join(sorted(BUILDERS))
        raise ArchitectureError(f"there is no tiny model of {architecture!r}, only of {known}") from None
    return getattr(importlib.import_module(module), function)(directory)
