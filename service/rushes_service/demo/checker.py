"""Reads a clip of the demo's world: colour, shape, motion and ground, without any learned part.

The ground is the commonest colour along the edges; what stands out from it is the shape. Its hue names the colour, the
way of its centre names the motion, and the template that covers it best names the shape.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from rushes_service.demo.world import COLOURS, GROUNDS, MOTIONS, SHAPES, SIZE, Pixels, Scene, cover

STANDS_OUT = 0.5
"""Of the greatest distance from the ground: where a smooth edge is half covered."""

FAINTEST = 60.0
"""Distance in RGB (0..255) below which nothing stands out at all."""

SMALLEST = 60
"""Pixels of the smallest thing that is taken for a shape."""

MOVED = 6.0
"""Pixels between the first and the last frame below which a shape stays."""

READABLE = 0.75
"""Overlap with its template from which a shape counts as that shape."""

BLURS = (0, 2)
"""Pixels to each side over which a template is averaged: a small VAE rounds off corners, and a blunt star is a star."""

PLACES = (-0.5, 0.0, 0.5)
SCALES = (0.92, 1.0, 1.08)


@dataclass(frozen=True)
class Reading:
    """A reading; `overlap` is how well the template of `shape` covers the shape seen, 0..1."""

    scene: Scene
    overlap: float
    overlaps: dict[str, float]

    @property
    def readable(self) -> bool:
        """True if the shape is one of the world's, and not a blot."""
        return self.overlap >= READABLE


NOTHING = Reading(Scene("nothing", "nothing", "stays", "nothing"), 0.0, {})


def read_clip(frames: NDArray[np.uint8]) -> Reading:
    """Read a clip [T, 64, 64, 3] in 0..255; `NOTHING` if nothing stands out from the ground in its middle frame."""
    pixels = frames.astype(np.float32)
    edge = np.concatenate([pixels[:, 0], pixels[:, -1], pixels[:, :, 0], pixels[:, :, -1]], axis=1)
    ground = np.median(edge.reshape(-1, 3), axis=0)
    away = np.linalg.norm(pixels - ground, axis=-1)
    masks = [mask_of(frame) for frame in away]
    middle = len(masks) // 2
    if any(masks[index].sum() < SMALLEST for index in (0, middle, -1)):
        return NOTHING
    body = away[middle] > 0.8 * np.percentile(away[middle][masks[middle]], 90)
    colour = nearest(np.median(pixels[middle][body], axis=0), COLOURS)
    looked_at = sorted({0, middle, len(masks) - 1})
    each = [overlaps(masks[index]) for index in looked_at]
    mean = {shape: float(np.mean([overlap[shape] for overlap in each])) for shape in SHAPES}
    shape = max(mean, key=mean.__getitem__)
    motion = motion_of(centre(masks[0]), centre(masks[-1]))
    return Reading(Scene(colour, shape, motion, nearest(ground, GROUNDS)), mean[shape], mean)


def mask_of(away: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Where a frame [H, W] of distances from the ground stands out."""
    top = np.percentile(away, 98)
    return away > STANDS_OUT * top if top >= FAINTEST else np.zeros_like(away, dtype=bool)


def nearest(colour: NDArray[np.float32], table: dict[str, tuple[int, int, int]]) -> str:
    """The word of `table` whose colour is nearest to `colour`, RGB in 0..255."""
    return min(table, key=lambda word: float(np.linalg.norm(np.subtract(table[word], colour))))


def centre(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Centre (x, y) in pixels of a mask [H, W]."""
    rows, columns = np.nonzero(mask)
    return np.array([columns.mean(), rows.mean()]) + 0.5


def motion_of(first: NDArray[np.float64], last: NDArray[np.float64]) -> str:
    """The word for the way from `first` to `last`, (x, y) in pixels."""
    way = last - first
    if np.abs(way).max() < MOVED:
        return "stays"
    axis = int(np.abs(way).argmax())
    unit = tuple(int(np.sign(way[axis])) if index == axis else 0 for index in range(2))
    return next(word for word, direction in MOTIONS.items() if direction == unit)


def overlaps(mask: NDArray[np.bool_]) -> dict[str, float]:
    """For each shape, the best intersection over union of `mask` with it, at the mask's centre and about its size."""
    return {shape: best_overlap(mask, shape) for shape in SHAPES}


def best_overlap(mask: NDArray[np.bool_], shape: str) -> float:
    """Intersection over union of `mask` and the best placed template of `shape`."""
    area, offset = template(shape)
    radius = float(np.sqrt(mask.sum() / area))
    places: Sequence[tuple[float, float]] = [(dx, dy) for dx in PLACES for dy in PLACES]
    best = 0.0
    for scale in SCALES:
        size = radius * scale
        middles = np.array([centre(mask) - np.multiply(offset, size) + place for place in places])
        sharp = cover(shape, middles, size)
        for reach in BLURS:
            drawn = blurred(sharp, reach) > 0.5
            union = (drawn | mask).sum(axis=(1, 2))
            best = max(best, float(((drawn & mask).sum(axis=(1, 2)) / union).max()))
    return best


def blurred(coverage: Pixels, reach: int) -> Pixels:
    """Coverage [N, H, W] averaged over squares that go `reach` pixels to each side."""
    for axis in (1, 2):
        coverage = np.mean([np.roll(coverage, shift, axis) for shift in range(-reach, reach + 1)], axis=0)
    return coverage


@cache
def template(shape: str) -> tuple[float, tuple[float, float]]:
    """Area of a shape of radius 1, and its centre (x, y) from where it is drawn, in radii."""
    radius = SIZE / 4
    drawn = cover(shape, np.full((1, 2), SIZE / 2), radius)[0] > 0.5
    x, y = (centre(drawn) - SIZE / 2) / radius
    return float(drawn.sum()) / radius**2, (float(x), float(y))
