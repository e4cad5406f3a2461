"""What the VAE is shown: the world, and plain things beyond it, so that a LoRA may draw what is not in the world."""

from __future__ import annotations

import numpy as np

from rushes_service.demo.world import (
    COLOURS,
    FRAMES,
    GROUNDS,
    MOTIONS,
    POLYGONS,
    SHAPES,
    SIZE,
    Pixels,
    Scene,
    blend,
    cover,
    draw,
    level,
)

OUTLINES = ("circle", "ring", "cross", *POLYGONS)


def batch(count: int, frames: int, random: np.random.Generator) -> Pixels:
    """Pictures [count, 3, frames, 64, 64]: two of three from the world, the others from beyond it."""
    return np.concatenate(
        [beyond(frames, random)[None] if random.random() < 1 / 3 else world(frames, random) for _ in range(count)]
    )


def world(frames: int, random: np.random.Generator) -> Pixels:
    """The first frames, or any still, of a random scene [1, 3, frames, 64, 64], in any of the world's words."""
    words = [str(random.choice(list(table))) for table in (COLOURS, SHAPES, MOTIONS, GROUNDS)]
    if frames == 1:
        return draw([Scene(*words)], FRAMES, random)[:, :, [int(random.integers(FRAMES))]]
    start = int(random.integers((FRAMES - frames) + 1))
    return draw([Scene(*words)], FRAMES, random)[:, :, start : start + frames]


def beyond(frames: int, random: np.random.Generator) -> Pixels:
    """One or two shapes of any colour, place, angle and speed over a plain ground or a gradient."""
    picture = ground(random) + np.zeros((3, frames, SIZE, SIZE), np.float32)
    for _ in range(random.integers(1, 3)):
        start, speed = random.uniform(10, SIZE - 10, 2), random.uniform(-2, 2, 2)
        path = start + np.outer(np.arange(frames), speed)
        shape, radius = str(random.choice(OUTLINES)), random.uniform(8, 18)
        coverage = cover(shape, path, radius, random.uniform(0, 2 * np.pi))
        picture = blend(picture, colour(random), coverage)
    return picture


def ground(random: np.random.Generator) -> Pixels:
    """A plain ground or a gradient between two colours [3, 1, 64, 64]."""
    if random.random() < 0.5:
        return np.broadcast_to(level(colour(random)), (3, 1, SIZE, SIZE))
    ramp = np.linspace(0, 1, SIZE, dtype=np.float32)
    ramp = ramp[:, None] if random.random() < 0.5 else ramp[None, :]
    first, second = level(colour(random)), level(colour(random))
    return first + (second - first) * np.broadcast_to(ramp, (1, 1, SIZE, SIZE))


def colour(random: np.random.Generator) -> Pixels:
    """Any colour, 0..255."""
    return random.uniform(10, 250, 3).astype(np.float32)
