"""Automatic checks of a sample's frames on their way to the file: black, constant, saturated, still."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

MEASURED_PIXELS = 1 << 16
"""Pixels measured per frame: a 256 x 256 grid distinguishes a black picture from a dark one as well as all pixels."""

BLACK_LEVEL = 16
"""A picture whose values are all at or below this is black: TV black, and an encoder's rounding of zero."""

CONSTANT_SPREAD = 4
"""Values of a channel that lie this close together are one flat colour."""

CLIPPED_SHARE = 0.75
"""Share of values at 0 or 255 from which on a picture is saturated; a drawing on pure white stays below."""

STILL_LEVEL = 0.25
"""Mean difference of 8-bit values between frames below which nothing moves."""


COLOURS = 3
"""Channels of an opaque frame."""

GREY = 128


class Health:
    """Measures frames as they pass; `flags` names the problems once all have passed."""

    def __init__(self) -> None:
        self._count = 0
        self._brightest = 0
        self._spread = 0
        self._clipped = 0.0
        self._moved = 0.0
        self._before: np.ndarray | None = None

    def watch(self, frames: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        """Pass frames, uint8 [H, W, 3 or 4], on and measure each."""
        for frame in frames:
            self._measure(thinned(frame))
            yield frame

    def _measure(self, pixels: np.ndarray) -> None:
        if pixels.shape[-1] == COLOURS + 1:
            pixels = over_grey(pixels)
        lowest, highest = pixels.min(axis=(0, 1)), pixels.max(axis=(0, 1))
        self._count += 1
        self._brightest = max(self._brightest, int(highest.max()))
        self._spread = max(self._spread, int((highest.astype(int) - lowest).max()))
        self._clipped += float(np.mean((pixels == 0) | (pixels == 255)))
        if self._before is not None and self._before.shape == pixels.shape:
            step = np.abs(pixels.astype(np.int16) - self._before).mean()
            self._moved = max(self._moved, float(step))
        self._before = pixels.astype(np.int16)

    def flags(self) -> tuple[str, ...]:
        """The problems of the frames that have passed: `black`, `constant`, `saturated`, `still`."""
        if self._count == 0:
            return ()
        if self._brightest <= BLACK_LEVEL:
            return ("black",)
        if self._spread <= CONSTANT_SPREAD:
            return ("constant",)
        found = []
        if self._clipped / self._count >= CLIPPED_SHARE:
            found.append("saturated")
        if self._count > 1 and self._moved < STILL_LEVEL:
            found.append("still")
        return tuple(found)


def over_grey(pixels: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 4] before middle grey, which is neither black nor saturated: [H, W, 3]."""
    alpha = pixels[..., COLOURS:].astype(np.float32) / 255
    return (pixels[..., :COLOURS] * alpha + GREY * (1 - alpha)).astype(np.uint8)


def thinned(frame: np.ndarray) -> np.ndarray:
    """About `MEASURED_PIXELS` of a frame, evenly spread."""
    height, width = frame.shape[:2]
    stride = max(1, int((height * width / MEASURED_PIXELS) ** 0.5))
    return frame[::stride, ::stride]
