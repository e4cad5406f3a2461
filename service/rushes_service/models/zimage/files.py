"""How Z-Image's transformer is read from a single file, in its own names or in diffusers'."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rushes_service.models.loading.build_plans import TRANSFORMER_PREFIXES, BuildPlan
from rushes_service.models.loading.files.rules import renaming
from rushes_service.models.loading.files.shapes import Config, Shapes, heads
from rushes_service.models.zimage.names import ORIGINAL_NAMES


def transformer_config(s: Shapes, _base: Mapping[str, Any]) -> Config:
    """Z-Image, base or Turbo, which differ in nothing but their numbers."""
    width = s.rows("x_embedder.weight", "all_x_embedder.2-1.weight")
    size = s.rows("layers.0.attention.q_norm.weight", "layers.0.attention.norm_q.weight")
    count = heads(width, size, s.path)
    return {
        "dim": width,
        "n_heads": count,
        "n_kv_heads": count,
        "n_layers": s.count(r"layers\.(\d+)\."),
        "n_refiner_layers": s.count(r"noise_refiner\.(\d+)\."),
        "cap_feat_dim": s.columns("cap_embedder.1.weight"),
    }


BUILD_PLANS = (
    BuildPlan(
        "ZImageTransformer2DModel",
        transformer_config,
        renaming(ORIGINAL_NAMES),
        anchors=("dim",),
        prefixes=TRANSFORMER_PREFIXES,
        unused=r"^norm_final\.",
    ),
)
