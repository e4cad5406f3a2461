"""Sections of the exported page beside its sheet: the ranking, the curves of drift and scores, tables of the caller.

Plain HTML and SVG without inline styles or scripts, as the page's policy demands. Every text from outside is escaped.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from rushes_service.catalogue import Cell, Column, Row
from rushes_service.ranking.table import Ranking
from rushes_service.sheets.picking import Picked, note_of, title_of

WIDTH, HEIGHT = 640, 190
LEFT, RIGHT, TOP, BOTTOM = 48, 628, 12, 160
"""Box of the curves, in the units of the drawing."""

Points = list[tuple[int, float]]


@dataclass(frozen=True)
class Table:
    """A table of the caller's: a title, a sentence beneath it, headings and rows of texts; `marked` rows stand out."""

    title: str
    note: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    marked: Sequence[int] = ()


def sections(picked: Picked, ranking: Ranking | None, tables: Sequence[Table]) -> Iterator[str]:
    """The sections, line by line."""
    for table in tables:
        yield from table_section(table)
    if ranking is not None and ranking.votes:
        yield from table_section(ranking_table(ranking))
    for title, read in measures(picked):
        yield from curve_section(picked, title, read)


def table_section(table: Table) -> Iterator[str]:
    """A table with its title and note."""
    yield f"<section><h2>{html.escape(table.title)}</h2><p>{html.escape(table.note)}</p>"
    yield '<table class="plain"><thead><tr>'
    yield "".join(f"<th>{html.escape(text)}</th>" for text in table.headings) + "</tr></thead><tbody>"
    for index, row in enumerate(table.rows):
        mark = ' class="marked"' if index in table.marked else ""
        yield f"<tr{mark}>" + "".join(f"<td>{html.escape(text)}</td>" for text in row) + "</tr>"
    yield "</tbody></table></section>"


def ranking_table(ranking: Ranking) -> Table:
    """The blind ranking as a table."""
    voters = ", ".join(f"{voter.name} ({voter.votes})" for voter in ranking.voters)
    rows = [
        (
            str(number),
            place.title,
            f"{place.score:+.2f}",
            f"{place.low:+.2f} to {place.high:+.2f}",
            str(place.votes),
            f"{100 * place.wins / place.votes:.0f} %" if place.votes else "",
            place.path or "",
        )
        for number, place in enumerate(ranking.places, start=1)
    ]
    best = next((index for index, place in enumerate(ranking.places) if not place.base), 0)
    note = f"{ranking.votes} blind votes by {voters}. Scores are Bradley-Terry strengths in logits."
    return Table("Ranking", note, ("", "checkpoint", "score", "95 % interval", "votes", "won", "file"), rows, (best,))


def measures(picked: Picked) -> list[tuple[str, Callable[[Cell], float | None]]]:
    """What was measured in this run: a title, and the value of a cell."""
    found: list[tuple[str, Callable[[Cell], float | None]]] = [
        ("Drift from the base model, in standard deviations of its latents", lambda cell: cell.drift),
        ("Drift from the base model, in 8-bit levels of its pixels", lambda cell: cell.drift_pixels),
    ]
    names = sorted({name for place in picked.places.values() for name in place.cell.scores})
    found += [(f"Score: {name}", lambda cell, name=name: cell.scores.get(name)) for name in names]  # type: ignore[misc]
    return found


def curve_section(picked: Picked, title: str, read: Callable[[Cell], float | None]) -> Iterator[str]:
    """One drawing with a curve for each row; nothing where nothing was measured."""
    drift = title.startswith("Drift")
    curves = [(row, points(picked, row, read, drift=drift)) for row in picked.rows]
    curves = [(row, found) for row, found in curves if len(found) > 1]
    if not curves:
        return
    values = [value for _, found in curves for _, value in found]
    low = 0.0 if drift else min(values)
    high = max(max(values), low + 1e-6)

    def place(index: int, value: float) -> tuple[float, float]:
        x = LEFT + index * (RIGHT - LEFT) / max(1, len(picked.columns) - 1)
        return round(x, 1), round(BOTTOM - (value - low) * (BOTTOM - TOP) / (high - low), 1)

    yield f'<section><h2>{html.escape(title)}</h2><svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">'
    for value in (low, (low + high) / 2, high):
        _, y = place(0, value)
        yield f'<line class="grid" x1="{LEFT}" x2="{RIGHT}" y1="{y}" y2="{y}"/>'
        yield f'<text x="{LEFT - 6}" y="{y + 3}" text-anchor="end">{value:.2f}</text>'
    for index in sorted({0, len(picked.columns) - 1}):
        x, _ = place(index, low)
        anchor = "start" if index == 0 else "end"
        label = html.escape(named(picked.columns[index]))
        yield f'<text x="{x}" y="{HEIGHT - 8}" text-anchor="{anchor}">{label}</text>'
    for row, found in curves:
        drawn = " ".join(f"{x},{y}" for x, y in (place(index, value) for index, value in found))
        control = ' class="control"' if row.drift_limit is not None else ""
        texts = ", ".join(f"{value:.2f}" for _, value in found)
        prompt = html.escape(row.prompt if row.draft is None else f"draft of {row.prompt}")
        yield f'<polyline{control} points="{drawn}"><title>{prompt}: {texts}</title></polyline>'
    yield "</svg>"
    if any(row.drift_limit is not None for row, _ in curves):
        yield "<p>Dashed: controls, prompts that should stay as the base model makes them.</p>"
    yield "</section>"


def points(picked: Picked, row: Row, read: Callable[[Cell], float | None], *, drift: bool) -> Points:
    """Index of a column, and the row's value there. The base model does not drift."""
    found: Points = []
    for index, column in enumerate(picked.columns):
        place = picked.places.get((row.key, column.key))
        value = 0.0 if drift and column.base and place else read(place.cell) if place else None
        if value is not None:
            found.append((index, value))
    return found


def named(column: Column) -> str:
    """Title and note of a column."""
    return f"{title_of(column)} {note_of(column)}".strip()
