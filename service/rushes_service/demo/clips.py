"""Synthetic training clips: one bright shape drifting over a soft ground, with the caption that says so."""

from __future__ import annotations

import numpy as np

COLOURS = {
    "red": (0.93, 0.22, 0.20),
    "amber": (0.98, 0.72, 0.18),
    "green": (0.25, 0.80, 0.42),
    "blue": (0.22, 0.45, 0.95),
}
SHAPES = ("disc", "square", "ring")
MOTIONS = {"right": (1.0, 0.0), "left": (-1.0, 0.0), "up": (0.0, -1.0), "down": (0.0, 1.0)}
GROUND = ((0.06, 0.07, 0.12), (0.20, 0.22, 0.34))
"""Colours of the top and the bottom of every picture."""

EDGE = 0.04
"""Width of a shape's soft edge, in picture heights: a hard one costs the VAE more than it shows."""


def make_clips(count: int, frames: int, size: int, seed: int) -> tuple[list[str], np.ndarray]:
    """`count` captions and their clips, float32 [count, 3, frames, size, size] in -1..1."""
    rng = np.random.default_rng(seed)
    captions, clips = [], []
    for _ in range(count):
        colour, shape, motion = (str(rng.choice(list(names))) for names in (COLOURS, SHAPES, MOTIONS))
        captions.append(f"a {colour} {shape} moving {motion}")
        clips.append(draw_clip(colour, shape, motion, frames, size, start=rng.uniform(0.4, 0.6, 2)))
    return captions, np.stack(clips)


def draw_clip(colour: str, shape: str, motion: str, frames: int, size: int, start: np.ndarray) -> np.ndarray:
    """One clip, float32 [3, frames, size, size] in -1..1; `start` is the shape's first centre (x, y) in 0..1."""
    y, x = np.mgrid[0:size, 0:size].astype(np.float32) / size
    top, bottom = (np.array(rgb, np.float32)[:, None, None] for rgb in GROUND)
    ground = top + (bottom - top) * y
    paint = np.array(COLOURS[colour], np.float32)[:, None, None]
    drift = np.array(MOTIONS[motion]) * 0.25 / max(frames - 1, 1)
    pictures = []
    for frame in range(frames):
        centre_x, centre_y = start + drift * frame
        cover = np.clip(0.5 - distance(shape, x - centre_x, y - centre_y) / EDGE, 0, 1)
        pictures.append(ground * (1 - cover) + paint * cover)
    return np.stack(pictures, axis=1).astype(np.float32) * 2 - 1


def distance(shape: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Signed distance [H, W] to the edge of `shape` around the origin, in picture heights; negative inside."""
    if shape == "square":
        return np.maximum(np.abs(x), np.abs(y)) - 0.18
    radius = np.hypot(x, y)
    return np.abs(radius - 0.18) - 0.06 if shape == "ring" else radius - 0.2
