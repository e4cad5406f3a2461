"""Kandinsky 5's start image, which gives a clip its size (kandinsky5/generation_utils.py of musubi-tuner 0.3.4)."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch.nn import functional as F  # noqa: N812  # its usual name

MOST_PIXELS = 512 * 768
MULTIPLE = 16


def fitting(width: int, height: int) -> tuple[int, int]:
    """Width and height of a clip that starts with a picture of `width` x `height` pixels: no larger, rounded."""
    scale = min(1.0, math.sqrt(MOST_PIXELS / (width * height)))
    wide, high = (max(MULTIPLE, round(size * scale / MULTIPLE) * MULTIPLE) for size in (width, height))
    return wide, high


def stretched(pixels: np.ndarray, width: int, height: int) -> torch.Tensor:
    """uint8 [H, W, 3] as float32 [1, 3, 1, height, width] in -1..1, stretched to that size and not cut."""
    picture = torch.from_numpy(np.ascontiguousarray(np.moveaxis(pixels, -1, 0)))[None].float()
    if picture.shape[-2:] != (height, width):
        picture = F.interpolate(picture, (height, width), mode="bilinear", align_corners=False, antialias=True)
    return picture.round().clamp(0, 255)[:, :, None] / 127.5 - 1.0
