"""Typefaces of a sheet: Pillow's own, so that it is the same everywhere, and a system's for letters which that lacks.

Pillow's has little beyond ASCII: no accents, no Greek, no Chinese.
"""

from __future__ import annotations

import contextlib
import functools
import logging

from PIL import ImageFont

logger = logging.getLogger("rushes.sheets")

Face = ImageFont.FreeTypeFont

SYSTEM = (
    "DejaVuSans.ttf",
    "NotoSans-Regular.ttf",
    "NotoSansCJK-Regular.ttc",
    "wqy-microhei.ttc",
    "wqy-zenhei.ttc",
    "DroidSansFallbackFull.ttf",
    "Arial Unicode.ttf",
    "arial.ttf",
    "msyh.ttc",
)
"""Files that Linux, macOS and Windows are likely to have, where Pillow looks for them."""


def face_for(text: str, size: int) -> Face:
    """The face of `size` pixels that has most letters of `text`; Pillow's own if that has as many as any."""
    letters = frozenset(text)
    best = max(faces(size), key=lambda face: sum(has(face, letter) for letter in letters))
    if missing := frozenset(letter for letter in letters if not has(best, letter)):
        tell(missing)
    return best


@functools.lru_cache
def faces(size: int) -> tuple[Face, ...]:
    """All that there are here, Pillow's own first."""
    found = [ImageFont.load_default(size)]
    for name in SYSTEM:
        with contextlib.suppress(OSError):
            found.append(ImageFont.truetype(name, size))
    return tuple(found)


@functools.lru_cache(maxsize=1 << 14)
def has(face: Face, letter: str) -> bool:
    """True if a face draws `letter` otherwise than what it draws for letters that it lacks."""
    return not letter.isprintable() or letter == " " or bytes(face.getmask(letter)) != bytes(face.getmask("\uffff"))


@functools.lru_cache
def tell(missing: frozenset[str]) -> None:
    """Say once what cannot be drawn."""
    shown = " ".join(sorted(missing)[:8])
    logger.warning("no typeface of this machine has %s: boxes are drawn instead; install Noto Sans CJK, say", shown)
