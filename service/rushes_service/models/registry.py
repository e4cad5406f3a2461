"""Which class samples which family. Classes are imported when they are first needed."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from rushes.errors import ArchitectureError
from rushes.families.table import architecture

if TYPE_CHECKING:
    from rushes_service.models.base import Architecture

SAMPLERS = {
    "flux1-kontext": "rushes_service.models.flux.kontext:FluxKontext",
    "framepack": "rushes_service.models.framepack.video:FramePack",
    "framepack-one-frame": "rushes_service.models.framepack.one_frame:FramePackOneFrame",
    "hunyuan-video": "rushes_service.models.hunyuan.t2v:HunyuanVideo",
    "hunyuan-video-i2v": "rushes_service.models.hunyuan.i2v:HunyuanVideoImageToVideo",
    "skyreels-v1-t2v": "rushes_service.models.hunyuan.t2v:SkyReelsTextToVideo",
    "skyreels-v1-i2v": "rushes_service.models.hunyuan.skyreels_i2v:SkyReelsImageToVideo",
    "wan2.1-t2v": "rushes_service.models.wan.t2v:WanTextToVideo",
    "wan2.1-i2v": "rushes_service.models.wan.i2v:WanImageToVideo",
    "wan2.1-fun-control": "rushes_service.models.wan.fun_control:WanFunControl",
    "wan2.2-t2v-a14b": "rushes_service.models.wan.v22:WanTwoExperts",
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
