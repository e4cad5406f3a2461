"""Which class samples which family. Classes are imported when they are first needed."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from rushes.architectures import architecture
from rushes.errors import ArchitectureError

if TYPE_CHECKING:
    from rushes_service.architectures.base import Architecture

SAMPLERS = {
    "flux1-kontext": "rushes_service.architectures.flux:FluxKontext",
    "framepack": "rushes_service.architectures.framepack:FramePack",
    "framepack-one-frame": "rushes_service.architectures.framepack_one_frame:FramePackOneFrame",
    "hunyuan-video": "rushes_service.architectures.hunyuan:HunyuanVideo",
    "hunyuan-video-i2v": "rushes_service.architectures.hunyuan_i2v:HunyuanVideoImageToVideo",
    "skyreels-v1-t2v": "rushes_service.architectures.hunyuan:SkyReelsTextToVideo",
    "skyreels-v1-i2v": "rushes_service.architectures.skyreels_i2v:SkyReelsImageToVideo",
    "wan2.1-t2v": "rushes_service.architectures.wan:WanTextToVideo",
    "wan2.1-i2v": "rushes_service.architectures.wan_i2v:WanImageToVideo",
    "wan2.1-fun-control": "rushes_service.architectures.wan_fun:WanFunControl",
    "wan2.2-t2v-a14b": "rushes_service.architectures.wan22:WanTwoExperts",
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
