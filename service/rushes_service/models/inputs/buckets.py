"""Sizes that pictures are brought to where a prompt does not say one: of a given area, near their own shape.

Facts are musubi-tuner 0.3.4's (dataset/bucket.py, `calculate_bucket_resolution`).
"""

from __future__ import annotations

import math

STEP = 16
"""Pixels; sizes are multiples of it."""

TRIED = range(-2, 3)
"""Widths beside the nearest one, in steps, of which the one with the nearest shape is taken."""


def bucket(size: tuple[int, int], area: int) -> tuple[int, int] | None:
    """Width and height of at most `area` pixels (give or take a step) in the shape of `size`; None if it is too narrow.

    The first of several that are equally near is taken, as in the reference, which divides by zero where this is None.
    """
    shape = size[0] / size[1]
    middle = int(math.sqrt(area * shape)) // STEP * STEP
    widths = [width for step in TRIED if (width := middle + step * STEP) > 0]
    found = [(width, height) for width in widths if (height := area // width // STEP * STEP) > 0]
    return min(found, key=lambda each: abs(each[0] / each[1] - shape), default=None)
