"""All checks, most important first."""

from __future__ import annotations

from functools import partial

import families
import memory
import together
import worker
from family_support import FAMILIES
from full_models import FULL_MODELS
from full_size import FullSize
from kit import Kit
from rushes_service.engine.parallel.ways import WAYS

OFFLOADED = ("hunyuan-video-i2v", "wan2.1-t2v", "flux1-kontext", "hunyuan-video", "framepack")
"""One of each kind, that which has failed before first."""

FULL_NEEDS_S = {"wan 1.3B": 60, "wan 14B": 90, "flux": 60}
"""Seconds from the first check of a full-size model to the last."""


def run_all(kit: Kit) -> None:
    """Every check in its turn."""
    kit.check("machine", partial(worker.machine, kit))
    kit.check("noise", partial(worker.noise, kit))
    kit.check("first use of CUDA", partial(worker.first_use, kit))
    kit.check("marked tests", partial(worker.marked_tests, kit))
    kit.check("beyond 32 bits", partial(memory.beyond_32_bits, kit))
    for family in OFFLOADED[:3]:
        kit.check(f"offload {family}", partial(families.offloaded, kit, family))
    kit.check("fallbacks hunyuan-video", partial(memory.fallbacks, kit, "hunyuan-video", 384, 9))
    kit.check("cancel", partial(worker.cancelling, kit))
    kit.check("decode beside the next sample", partial(worker.beside, kit))
    full_size(kit, "wan 1.3B")
    for family in FAMILIES:
        kit.check(f"family {family} float32", partial(families.beside_the_cpu, kit, family, "float32"))
    for family in FAMILIES:
        kit.check(f"lora {family}", partial(families.loras, kit, family))
    full_size(kit, "wan 14B")
    full_size(kit, "flux")
    the_rest(kit)


def the_rest(kit: Kit) -> None:
    """What has never failed, or is seen elsewhere too."""
    kit.check("two workers", partial(worker.two_workers, kit))
    for way in WAYS:
        kit.check(f"two devices {way}", partial(together.two_devices, kit, way))
    kit.check("decoding", partial(worker.decoding, kit))
    kit.check("fallbacks wan2.1-t2v", partial(memory.fallbacks, kit, "wan2.1-t2v", 512, 17))
    kit.check("fallbacks flux1-kontext", partial(memory.fallbacks, kit, "flux1-kontext", 512, 1))
    kit.check("flat memory", partial(memory.flat, kit, 50))
    for family in OFFLOADED[3:]:
        kit.check(f"offload {family}", partial(families.offloaded, kit, family))
    for family in OFFLOADED:
        kit.check(f"float8 {family}", partial(families.float8, kit, family))
        kit.check(f"pinned copies {family}", partial(families.pinned_copies, kit, family))
    for family in FAMILIES:
        kit.check(f"family {family} bfloat16", partial(families.beside_the_cpu, kit, family, "bfloat16"))


def full_size(kit: Kit, name: str) -> None:
    """One model's checks; the first one is not begun without time for all."""
    full = FullSize(kit, FULL_MODELS[name])
    needs_s = 0 if full.small else FULL_NEEDS_S[name]
    for what, work in full.checks().items():
        if what != "overlap" or name == "wan 1.3B":
            kit.check(f"full size {name}: {what}", work, needs_s if what == "bare pipeline" else 0)
    full.close()
