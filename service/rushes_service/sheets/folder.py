"""A run as a static folder: one page, its style and script, and the media files beside them.

    index.html  page.css  page.js
    media/      the samples, under their own names
    receipts/   what was done to make each

The page is opened from disk, where browsers load no modules and fetch nothing: all of it is in the markup.
"""

from __future__ import annotations

import html
import shutil
from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from urllib.parse import quote

from rushes.errors import OutputError
from rushes_service.ranking.table import Ranking
from rushes_service.sheets.picking import Picked, Place, facts_of, note_of, title_of
from rushes_service.sheets.report import Table, sections

STATIC = ("page.css", "page.js")


def write(picked: Picked, directory: Path, ranking: Ranking | None = None, tables: Sequence[Table] = ()) -> Path:
    """Write the folder; returns its page. Files of an earlier export of the same run are replaced.

    Args:
        ranking: shown above the sheet if it has votes.
        tables: shown above everything.

    Raises:
        OutputError: the folder cannot be written.
    """
    try:
        for name in ("media", "receipts"):
            (directory / name).mkdir(parents=True, exist_ok=True)
        names = {key: copy(place, directory) for key, place in picked.places.items()}
        for name in STATIC:
            (directory / name).write_text(files(__package__).joinpath("static", name).read_text(encoding="utf-8"))
        page = directory / "index.html"
        page.write_text("\n".join(markup(picked, names, ranking, tables)), encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{directory} cannot be written: {error.strerror or error}") from error
    return page


def copy(place: Place, directory: Path) -> str:
    """Copy a sample and its receipt into the folder; returns the name that both have there."""
    name = f"{place.cell.id[:8]}-{place.path.name}"
    shutil.copyfile(place.path, directory / "media" / name)
    receipt = Path(place.result.receipt) if place.result.receipt else None
    if receipt is not None and receipt.is_file():
        shutil.copyfile(receipt, directory / "receipts" / f"{name}.json")
    return name


def markup(
    picked: Picked, names: dict[tuple[str, str], str], ranking: Ranking | None = None, tables: Sequence[Table] = ()
) -> Iterator[str]:
    """The page, line by line. Every text from outside is escaped."""
    title = html.escape(picked.run)
    yield from (
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; script-src 'self' file:; "
        "style-src 'self' file:; img-src 'self' file:; media-src 'self' file:\">",
        f'<title>{title} · Rushes</title><link rel="stylesheet" href="page.css"></head>',
        f"<body><header><h1>{title}</h1>",
        '<input id="zoom" type="range" min="100" max="480" value="220" aria-label="Size of the pictures">',
        '<button id="play" type="button">Pause</button></header>',
        "<main>",
        *sections(picked, ranking, tables),
        '<table><thead><tr><th class="corner"></th>',
    )
    for column in picked.columns:
        note = html.escape(note_of(column))
        yield f'<th class="{"base" if column.base else ""}">{html.escape(title_of(column))} <small>{note}</small></th>'
    yield "</tr></thead><tbody>"
    for row in picked.rows:
        prompt = html.escape(row.prompt)
        yield f'<tr><th scope="row"><p>{prompt}</p><small>{html.escape(facts_of(picked, row))}</small></th>'
        for column in picked.columns:
            key = (row.key, column.key)
            draft = "" if row.draft is None else "draft"
            label = html.escape(" ".join(filter(None, [title_of(column), note_of(column), draft])))
            mark = f'<b class="mark">{draft}</b>' if draft else ""
            yield f"<td>{medium(names[key], label) + mark if key in names else ''}</td>"
        yield "</tr>"
    yield "</tbody></table></main>"
    yield '<dialog id="large"><p></p><div></div>'
    yield '<input type="range" min="0" step="1" aria-label="Training steps"></dialog>'
    yield '<script src="page.js"></script></body></html>'


def medium(name: str, label: str) -> str:
    """The element that shows a file."""
    address = f"media/{quote(name)}"  # `#`, `?` and `%` are letters of a name
    if name.endswith(".mp4"):
        return f'<video src="{address}" data-label="{label}" muted loop playsinline preload="metadata"></video>'
    return f'<img src="{address}" data-label="{label}" alt="{label}" loading="lazy">'
