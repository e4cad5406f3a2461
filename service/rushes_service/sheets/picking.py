"""Which checkpoints and prompts of a run are shown, and the file of each place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rushes.client.client import Client
from rushes.errors import InputError
from rushes.wire.results import JobState, SampleResult
from rushes_service.catalogue import Cell, Column, Row, grid_of


@dataclass(frozen=True)
class Place:
    """One sample that is done: where it stands, its file, and how it came about."""

    cell: Cell
    result: SampleResult
    path: Path


@dataclass(frozen=True)
class Picked:
    """A run as it will be shown. `places` holds the newest finished sample of each row and column."""

    run: str
    columns: Sequence[Column]
    rows: Sequence[Row]
    places: Mapping[tuple[str, str], Place]


def pick(client: Client, run: str, most_columns: int | None, favourites: bool = False) -> Picked:
    """Read a run; with more checkpoints than `most_columns`, some spread evenly over training, the last one always.

    Raises:
        JobNotFound: no samples of such a run are kept.
        InputError: none of its samples is done.
    """
    grid = grid_of(client, run)
    done = [cell for cell in reversed(grid.cells) if cell.state is JobState.DONE and (cell.favourite or not favourites)]
    newest = {(cell.row, cell.column): cell for cell in done}
    if not newest:
        which = "is a favourite" if favourites else "is done"
        raise InputError(f"no sample of {run!r} {which} yet")
    shown = {column for _, column in newest}
    columns = thinned([column for column in grid.columns if column.key in shown], most_columns)
    kept = {column.key for column in columns}
    chosen = {place: cell for place, cell in newest.items() if place[1] in kept}
    records = {record.id: record for record in client.records([cell.id for cell in chosen.values()])}
    places = {}
    for place, cell in chosen.items():
        result = records[cell.id].result if cell.id in records else None
        if result is not None and result.path is not None and Path(result.path).is_file():
            places[place] = Place(cell, result, Path(result.path))
    rows = [row for row in grid.rows if any(row.key == place[0] for place in places)]
    return Picked(run, columns, rows, places)


def thinned(columns: list[Column], most: int | None) -> list[Column]:
    """At most `most` columns: the base model, the last checkpoint, and others evenly between."""
    if most is None or len(columns) <= most:
        return columns
    base = [column for column in columns if column.base][:1]
    others = [column for column in columns if not column.base]
    room = max(1, most - len(base))
    picked = {round((place + 1) * len(others) / room) - 1 for place in range(room)}
    return base + [column for index, column in enumerate(others) if index in picked]


def title_of(column: Column) -> str:
    """Title of a column."""
    return "base model" if column.base else f"step {column.step}"


def note_of(column: Column) -> str:
    """Note of a column: epoch, strength, other LoRAs."""
    parts = [
        "no LoRA" if column.base else "",
        f"epoch {column.epoch}" if column.epoch is not None else "",
        f"x {column.strength:g}" if not column.base and column.strength != 1 else "",
        *(f"+ {name}" for name in column.loras),
    ]
    return ", ".join(part for part in parts if part)


def facts_of(picked: Picked, row: Row) -> str:
    """Size, length and seed of a row, whether it is of drafts, and what drew its noise if not one kind of hardware."""
    frames = "still" if row.frame_count == 1 else f"{row.frame_count} frames"
    seed = "seeds differ" if row.seed is None else f"seed {row.seed}"
    drawn = noise_origins(picked, row)
    draft = "" if row.draft is None else f" · draft, threshold {row.draft:g}: approximate"
    noise = f" · noise from different hardware: {', '.join(drawn)}" if len(drawn) > 1 else ""
    return f"{frames} · {row.width}x{row.height} · {seed}{draft}{noise}"


def noise_origins(picked: Picked, row: Row) -> list[str]:
    """The kinds of hardware that drew the noise of a row; none where every sample has a seed of its own anyway."""
    cells = [place.cell for (row_key, _), place in picked.places.items() if row_key == row.key]
    return sorted({cell.noise for cell in cells if cell.noise}) if row.seed is not None else []
