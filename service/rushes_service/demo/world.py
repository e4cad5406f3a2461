"""The demo's world: clips of one coloured shape that moves over a plain ground, drawn on demand.

Everything is a signed distance in pixels turned into coverage, so edges are smooth at any position. Pictures are
float32 in -1..1, as a VAE takes them, and depend on the random generator alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.float32]

SIZE = 64
"""Width and height in pixels."""

FRAMES = 17

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (225, 45, 40),
    "green": (50, 190, 70),
    "blue": (50, 95, 235),
    "yellow": (245, 215, 50),
    "white": (245, 245, 245),
    "pink": (255, 100, 190),
}
GROUNDS: dict[str, tuple[int, int, int]] = {"black": (16, 16, 20), "gray": (120, 120, 124), "brown": (96, 62, 40)}
POLYGONS = {
    "square": (2, 1.0, 1.2),
    "triangle": (3, 0.5, 1.22),
    "star": (5, 0.42, 1.2),
    "diamond": (2, 1.0, 1.0),
    "hexagon": (3, 1.0, 1.0),
}
"""Spikes; how near the corners between them are; how far the spikes reach, in radii."""

SHAPES = ("circle", "square", "triangle", "star")
MOTIONS: dict[str, tuple[int, int]] = {
    "stays": (0, 0),
    "left": (-1, 0),
    "right": (1, 0),
    "up": (0, -1),
    "down": (0, 1),
}

RADII = (13.0, 14.5)
TRAVEL = (22.0, 25.0)
"""Pixels between a clip's first and last frame."""

JITTER = 2.0
"""How far from the middle of the picture the middle of a path may lie."""


@dataclass(frozen=True)
class Scene:
    """The content of a clip, in the words of its caption; the words are keys of the tables above."""

    colour: str
    shape: str
    motion: str
    ground: str


def draw(scenes: Sequence[Scene], frames: int, random: np.random.Generator) -> Pixels:
    """Clips [B, 3, frames, 64, 64] of `scenes`, each with its own size and place; a single frame is amid its path."""
    return np.stack([draw_one(scene, frames, random) for scene in scenes])


def draw_one(scene: Scene, frames: int, random: np.random.Generator) -> Pixels:
    """One clip [3, frames, 64, 64]."""
    radius, travel = random.uniform(*RADII), random.uniform(*TRAVEL)
    middle = SIZE / 2 + random.uniform(-JITTER, JITTER, size=2)
    progress = np.linspace(-0.5, 0.5, frames) if frames > 1 else np.zeros(1)
    path = middle + np.outer(progress * travel, MOTIONS[scene.motion])
    under = plain(GROUNDS[scene.ground], frames)
    return blend(under, COLOURS[scene.colour], cover(scene.shape, path, radius))


def plain(colour: Sequence[float], frames: int) -> Pixels:
    """A ground [3, frames, 64, 64] of one colour in 0..255."""
    return np.broadcast_to(level(colour), (3, frames, SIZE, SIZE))


def level(colour: Sequence[float]) -> Pixels:
    """A colour in 0..255 as [3, 1, 1, 1] in -1..1."""
    return (np.asarray(colour, np.float32) / 127.5 - 1)[:, None, None, None]


def blend(under: Pixels, colour: Sequence[float], coverage: Pixels) -> Pixels:
    """`under` [3, T, H, W] with a colour in 0..255 blended over it by `coverage` [T, H, W], 0..1."""
    return under + (level(colour) - under) * coverage


def cover(shape: str, centres: Pixels, radius: float, angle: float = 0.0) -> Pixels:
    """Coverage [T, 64, 64], 0..1, of a shape around `centres` [T, 2] (x, y)."""
    pixel = np.arange(SIZE, dtype=np.float32) + 0.5
    x = pixel[None, None, :] - centres[:, 0, None, None].astype(np.float32)
    y = pixel[None, :, None] - centres[:, 1, None, None].astype(np.float32)
    return np.clip(0.5 - distance(shape, x, y, radius, angle), 0, 1)


def distance(shape: str, x: Pixels, y: Pixels, radius: float, angle: float = 0.0) -> Pixels:
    """Signed distance in pixels, negative inside, from the outline of a shape around the origin."""
    if shape == "circle":
        return np.hypot(x, y) - 0.95 * radius
    if shape == "ring":
        return np.abs(np.hypot(x, y) - 0.75 * radius) - 0.25 * radius
    return polygon_distance(x, y, corners(shape, radius) @ rotation(angle))


def corners(shape: str, radius: float) -> Pixels:
    """Corners [N, 2] of a polygon around the origin; y points down.

    Raises:
        KeyError: no such polygon.
    """
    if shape == "cross":
        arm, end = 0.34 * radius, 1.02 * radius
        quarter = np.array([[-arm, -arm], [-arm, -end], [arm, -end]])
        return np.concatenate([quarter @ rotation(turn * math.pi / 2) for turn in range(4)])
    spikes, inner, outer = POLYGONS[shape]
    directions = np.arange(2 * spikes) * (math.pi / spikes) - math.pi / 2
    reach = radius * outer * np.where(np.arange(2 * spikes) % 2, inner, 1.0)
    points = np.stack([np.cos(directions), np.sin(directions)], axis=1) * reach[:, None]
    return points @ rotation(math.pi / 4) if shape == "square" else points


def rotation(angle: float) -> Pixels:
    """Matrix [2, 2] that turns row vectors by `angle` radians."""
    sine, cosine = math.sin(angle), math.cos(angle)
    return np.array([[cosine, sine], [-sine, cosine]])


def polygon_distance(x: Pixels, y: Pixels, points: Pixels) -> Pixels:
    """Signed distance of every (x, y) from the polygon with corners `points` [N, 2]: nearest edge, even-odd inside."""
    nearest = np.full(np.broadcast_shapes(x.shape, y.shape), np.inf, np.float32)
    inside = np.zeros(nearest.shape, bool)
    for (ax, ay), (bx, by) in zip(points.tolist(), np.roll(points, -1, 0).tolist(), strict=True):
        ex, ey = bx - ax, by - ay
        along = np.clip(((x - ax) * ex + (y - ay) * ey) / (ex * ex + ey * ey), 0, 1)
        nearest = np.minimum(nearest, (x - ax - along * ex) ** 2 + (y - ay - along * ey) ** 2)
        if ey:
            inside ^= ((y >= ay) != (y >= by)) & (x < ax + (y - ay) / ey * ex)
    return np.where(inside, -np.sqrt(nearest), np.sqrt(nearest))
