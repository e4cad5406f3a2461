"""The contact sheet: one row for each prompt, one column for each checkpoint, the base model first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from rushes_service.sheets.typefaces import Face, face_for

Frame = np.ndarray
"""One picture, uint8 [H, W, 3]."""

BACKGROUND = (17, 19, 24)
EMPTY = (31, 34, 42)
TEXT = (236, 237, 240)
QUIET = (139, 145, 158)
ACCENT = (255, 179, 71)
"""Marks the base model, the column everything else is compared with."""

MARKED = (91, 63, 140)
"""Behind the word on a picture."""

CELL_WIDTH = 216
STRIP_FRAMES = 4
"""Frames of a video shown small beneath its middle one."""

MARGIN = 36
GAP = 14
ROW_GAP = 26
LABEL_WIDTH = 232
HEADER_HEIGHT = 44
LINE_HEIGHT = 22
"""Of a prompt; `FACT_HEIGHT` of the quieter lines beneath it."""
FACT_HEIGHT = 18


@dataclass(frozen=True)
class Column:
    """One checkpoint; `title` is its name, `note` a smaller text beneath."""

    title: str
    note: str = ""
    base: bool = False


@dataclass(frozen=True)
class Row:
    """One prompt: its text, a quieter line of facts, and the frames of each column (empty: no sample).

    `mark` is a word on each of its pictures.
    """

    prompt: str
    facts: str
    cells: Sequence[Sequence[Frame]]
    mark: str | None = None


def contact_sheet(rows: Sequence[Row], columns: Sequence[Column], *, title: str, footer: str) -> Image.Image:
    """Draw the sheet. Pictures are enlarged to one width; rows are as tall as their pictures."""
    heights = [row_height(row) for row in rows]
    left = MARGIN + LABEL_WIDTH
    top = MARGIN + 52
    width = left + len(columns) * (CELL_WIDTH + GAP) - GAP + MARGIN
    body = top + HEADER_HEIGHT
    height = body + sum(heights) + ROW_GAP * (len(rows) - 1) + 30 + 16 + MARGIN
    sheet = Image.new("RGB", (width, height), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    face = face_for(title, 26)
    draw.text((MARGIN, MARGIN), fitting_text(draw, title, width - 2 * MARGIN, face), TEXT, face, anchor="lt")
    for index, column in enumerate(columns):
        draw_header(draw, column, left + index * (CELL_WIDTH + GAP), top)
    y = body
    for row, row_pixels in zip(rows, heights, strict=True):
        draw_label(draw, row, y, row_pixels)
        for index, frames in enumerate(row.cells):
            x = left + index * (CELL_WIDTH + GAP)
            draw_cell(sheet, frames, x, y, row_pixels)
            if row.mark and len(frames):
                draw_mark(draw, row.mark, x + 6, y + 6)
        y += row_pixels + ROW_GAP
    draw.text((MARGIN, height - MARGIN), footer, QUIET, face_for(footer, 13), anchor="lb")
    return sheet


def row_height(row: Row) -> int:
    """Pixels a row needs: its tallest cell."""
    shown = [cell for cell in row.cells if len(cell)]
    return max((cell_height(cell) for cell in shown), default=CELL_WIDTH)


def cell_height(frames: Sequence[Frame]) -> int:
    """Pixels the picture and, for a video, the strip beneath it need."""
    picture = scaled_height(frames[0], CELL_WIDTH)
    return picture + GAP // 2 + scaled_height(frames[0], strip_width()) if len(frames) > 1 else picture


def scaled_height(frame: Frame, width: int) -> int:
    """Height of `frame` when it is drawn `width` pixels wide."""
    return round(frame.shape[0] * width / frame.shape[1])


def strip_width() -> int:
    """Width of one frame of the strip."""
    return (CELL_WIDTH - (STRIP_FRAMES - 1) * 4) // STRIP_FRAMES


def draw_header(draw: ImageDraw.ImageDraw, column: Column, x: int, y: int) -> None:
    """Name of a checkpoint over its column, ruled off from the pictures."""
    face, small = face_for(column.title, 17), face_for(column.note, 13)
    draw.text((x, y + 12), column.title, ACCENT if column.base else TEXT, face, anchor="ls")
    if column.note:
        room = CELL_WIDTH - round(draw.textlength(column.title, face)) - GAP
        draw.text((x + CELL_WIDTH, y + 12), fitting_text(draw, column.note, room, small), QUIET, small, anchor="rs")
    draw.line((x, y + 24, x + CELL_WIDTH - 1, y + 24), ACCENT if column.base else EMPTY, 2)


def draw_label(draw: ImageDraw.ImageDraw, row: Row, y: int, height: int) -> None:
    """The prompt, as much of it as the row has room for, and its facts, left of the row."""
    face, small = face_for(row.prompt, 16), face_for(row.facts, 13)
    facts = wrap(draw, row.facts, LABEL_WIDTH - 28, small)
    room = max(1, (height - len(facts) * FACT_HEIGHT) // LINE_HEIGHT)
    lines = wrap(draw, row.prompt, LABEL_WIDTH - 28, face)
    if len(lines) > room:
        lines = [*lines[: room - 1], fitting_text(draw, f"{lines[room - 1]} {lines[room]}", LABEL_WIDTH - 28, face)]
    for index, line in enumerate(lines):
        draw.text((MARGIN, y - 3 + index * LINE_HEIGHT), line, TEXT, face, anchor="la")
    below = y + 4 + len(lines) * LINE_HEIGHT
    for index, line in enumerate(facts):
        draw.text((MARGIN, below + index * FACT_HEIGHT), line, QUIET, small, anchor="la")


def wrap(draw: ImageDraw.ImageDraw, text: str, width: int, face: Face) -> list[str]:
    """`text` broken into lines of at most `width` pixels, at spaces; a word longer than a line is broken too."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if draw.textlength(longer, face) <= width:
            lines[-1] = longer
            continue
        lines += [""] if lines[-1] else []
        for letter in word:
            if lines[-1] and draw.textlength(lines[-1] + letter, face) > width:
                lines.append("")
            lines[-1] += letter
    return lines


def fitting_text(draw: ImageDraw.ImageDraw, text: str, width: int, face: Face) -> str:
    """`text`, or as much of its beginning as fits into `width` pixels with an ellipsis."""
    if draw.textlength(text, face) <= width:
        return text
    while text and draw.textlength(f"{text}…", face) > width:
        text = text[:-1]
    return f"{text.rstrip()}…"


def draw_cell(sheet: Image.Image, frames: Sequence[Frame], x: int, y: int, height: int) -> None:
    """The middle frame of a sample and, for a video, a strip of frames over its length."""
    if not len(frames):
        ImageDraw.Draw(sheet).rectangle((x, y, x + CELL_WIDTH - 1, y + height - 1), EMPTY)
        text = (x + CELL_WIDTH // 2, y + height // 2)
        ImageDraw.Draw(sheet).text(text, "no sample", QUIET, face_for("no sample", 14), anchor="mm")
        return
    picture = scaled(frames[len(frames) // 2], CELL_WIDTH)
    sheet.paste(picture, (x, y))
    if len(frames) > 1:
        below = y + picture.height + GAP // 2
        for index in range(STRIP_FRAMES):
            frame = frames[index * (len(frames) - 1) // (STRIP_FRAMES - 1)]
            offset = index * (CELL_WIDTH - strip_width()) // (STRIP_FRAMES - 1)
            sheet.paste(scaled(frame, strip_width()), (x + offset, below))


def draw_mark(draw: ImageDraw.ImageDraw, mark: str, x: int, y: int) -> None:
    """A word on a picture, in a box that is read on any."""
    face = face_for(mark, 13)
    draw.rectangle((x, y, x + round(draw.textlength(mark, face)) + 11, y + 19), MARKED)
    draw.text((x + 6, y + 10), mark, TEXT, face, anchor="lm")


def scaled(frame: Frame, width: int) -> Image.Image:
    """`frame` at `width` pixels."""
    return Image.fromarray(frame).resize((width, scaled_height(frame, width)), Image.Resampling.LANCZOS)
