"""Pixels on a device to frames in host memory."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch


def to_uint8(pixels: torch.Tensor) -> Iterator[np.ndarray]:
    """Frames [H, W, C] of `pixels`, float [C, F, H, W] in 0..1; truncated, as the reference writes them."""
    frames = (pixels.permute(1, 2, 3, 0) * 255).to(torch.uint8).cpu().numpy()
    yield from frames
