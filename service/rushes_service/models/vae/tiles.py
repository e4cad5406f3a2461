"""Spatial tiling of a VAE: less memory for a picture that is slightly off at the seams."""

from __future__ import annotations

from dataclasses import dataclass

from rushes.wire.jobs import VaeOptions

DEFAULT_TILE = 256
"""Pixels; diffusers' own default."""


@dataclass(frozen=True)
class TilePlan:
    """Tiles of `size` x `size` pixels, one every `stride` pixels; neighbours are blended where they overlap."""

    size: int
    stride: int


def plan_tiles(options: VaeOptions, width: int, height: int, multiple: int = 8) -> TilePlan | None:
    """The tiling that `options` ask for; None if none is, or the picture fits one tile.

    Sizes are floored to `multiple` pixels per latent and strides to three quarters of that: tiles that do not
    divide so give pictures of a wrong size (the reference does, at 40 and 48).
    """
    if not options.tiling and options.spatial_tile_sample_min_size is None:
        return None
    size = max((options.spatial_tile_sample_min_size or DEFAULT_TILE) // multiple * multiple, multiple)
    if width <= size and height <= size:
        return None
    return TilePlan(size, max(size * 3 // 4 // multiple * multiple, multiple))
