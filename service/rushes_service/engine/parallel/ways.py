"""How and for which families a transformer is computed on several devices at once."""

from __future__ import annotations

from rushes.wire.models import ModelSpec

ULYSSES = "ulysses"
RING = "ring"

WAYS = (ULYSSES, RING)
"""How attention sees the sequence, of which each device has a part: by heads, or by passing keys and values on."""

FLASH = "native_flash"
"""The attention of a ring: PyTorch's own FlashAttention. diffusers can ring with cuDNN's kernels and others, too."""

PARALLEL = frozenset(
    {
        "wan2.1-t2v",
        "wan2.1-i2v",
        "wan2.1-fun-control",
        "wan2.1-flf2v",
        "wan2.2-t2v-a14b",
        "wan2.2-i2v-a14b",
        "wan2.2-ti2v-5b",
        "qwen-image",
        "qwen-image-edit",
        "qwen-image-layered",
        "flux1-kontext",
        "flux2-klein",
        "flux2-dev",
    }
)
"""Families whose transformers diffusers has a plan for, and which were tried."""


def computed_together(model: ModelSpec) -> bool:
    """True if several devices can compute a model. Weights in float8 were not tried."""
    return model.architecture in PARALLEL and not (model.fp8_base or model.fp8_scaled)
