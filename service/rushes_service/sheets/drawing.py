"""A run as one picture, or as a film in which every sample plays."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
from PIL import Image

from rushes._files import replacing
from rushes.errors import OutputError
from rushes_service.media.ffmpeg import Encoder
from rushes_service.sheets import contact_sheet as sheet
from rushes_service.sheets.frames import Frame, at_time, read_frames
from rushes_service.sheets.picking import Picked, facts_of, note_of, title_of

Cells = dict[tuple[str, str], list[Frame]]

FPS = 16
"""Frame rate of a film whose samples have none."""

MAX_FRAMES = 400
"""A film is as long as its longest sample, and no longer than this."""


def read_cells(picked: Picked, warn: Callable[[str], None]) -> Cells:
    """The frames of every place; a file that cannot be read is warned of and left out."""
    cells: Cells = {}
    for key, place in picked.places.items():
        try:
            cells[key] = read_frames(place.path, sheet.CELL_WIDTH)
        except OutputError as error:
            warn(str(error))
    return cells


def draw(picked: Picked, cells: Cells, position: int | None = None) -> Image.Image:
    """The contact sheet: whole clips with their strips, or, for a film, the frame at one position of each."""
    columns = [sheet.Column(title_of(column), note_of(column), base=column.base) for column in picked.columns]
    rows = []
    for row in picked.rows:
        found = [cells.get((row.key, column.key), []) for column in picked.columns]
        shown = found if position is None else [at_time(frames, position) for frames in found]
        mark = None if row.draft is None else "draft"
        rows.append(sheet.Row(row.prompt, facts_of(picked, row), shown, mark))
    footer = f"Rushes {version('rushes')}  ·  same seed along each row"
    return sheet.contact_sheet(rows, columns, title=picked.run, footer=footer)


def write_png(picked: Picked, cells: Cells, target: Path) -> None:
    """Write the sheet.

    Raises:
        OutputError: it cannot be written.
    """
    try:
        with replacing(target) as private:
            draw(picked, cells).save(private, format="PNG", optimize=True)
    except OSError as error:
        raise OutputError(f"{target} cannot be written: {error.strerror or error}") from error


def write_mp4(picked: Picked, cells: Cells, target: Path) -> None:
    """Write the film; shorter clips are repeated.

    Raises:
        OutputError: it cannot be written.
    """
    length = min(MAX_FRAMES, max((len(frames) for frames in cells.values()), default=1))
    rates = {place.result.fps for place in picked.places.values() if place.result.fps}
    first = even(draw(picked, cells, 0))
    fps = round(max(rates, default=FPS))
    try:
        with (
            replacing(target, ending=target.suffix) as private,
            Encoder(private, first.shape[1], first.shape[0], fps) as encoder,
        ):
            encoder.write(first)
            for position in range(1, length):
                encoder.write(even(draw(picked, cells, position)))
    except OSError as error:
        raise OutputError(f"{target} cannot be written: {error.strerror or error}") from error


def even(image: Image.Image) -> np.ndarray:
    """Pixels of a picture with even sides, which H.264 needs."""
    pixels = np.asarray(image)
    return pixels[: pixels.shape[0] // 2 * 2, : pixels.shape[1] // 2 * 2]
