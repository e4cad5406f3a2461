"""The three formats of a prompt file, read into entries that know their place in the file.

.txt    one prompt a line, options behind it: `a red ball --w 480 --h 832 --f 81 --d 42`; `#` in column 1 comments
.toml   `[prompt]` holds defaults, each `[[prompt.subset]]` one prompt
.json   a list of prompt lines or of objects
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rushes.errors import PromptError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Place = tuple[int, int]
"""Line and column, both from 1."""


@dataclass(frozen=True)
class RawEntry:
    """An entry as it stands in the file: a prompt line or a table, and where it starts.

    `columns` holds, of a prompt line, the file's column of each of its characters; `keys`, of a table, the place of
    each key.
    """

    value: str | Mapping[str, Any]
    line: int
    column: int = 1
    columns: Sequence[int] = ()
    keys: Mapping[str, Place] = field(default_factory=dict[str, Place])

    def place(self, error: PromptError) -> tuple[int, int | None]:
        """Line and column of an error in this entry; a table without a better place is named by its first line."""
        if error.key is not None and error.key in self.keys:
            return self.keys[error.key]
        if error.column is None:
            return self.line, None
        at = error.column - 1
        return self.line, self.columns[at] if at < len(self.columns) else self.column + at


@dataclass(frozen=True)
class PromptText:
    """A prompt file that has been read: where it lies, and its text with `\\n` at the ends of lines."""

    path: Path
    text: str

    def error(self, message: str, line: int | None = None, column: int | None = None) -> PromptError:
        """A `PromptError` at a place in this file."""
        return PromptError(message, file=str(self.path), line=line, column=column)

    def place(self, at: int) -> Place:
        """Line and column of a character of the text."""
        return self.text.count("\n", 0, at) + 1, at - self.text.rfind("\n", 0, at)


def read_txt(source: PromptText) -> Iterator[RawEntry]:
    """Prompt lines; blank lines and lines with `#` in column 1 do not count."""
    for number_, line in enumerate(source.text.split("\n"), start=1):
        if line.strip() and not line.startswith("#"):
            indent = len(line) - len(line.lstrip())
            yield RawEntry(line.strip(), number_, indent + 1)


def read_json(source: PromptText) -> Iterator[RawEntry]:
    """Entries of a JSON list, each with the place where it starts."""
    decoder = json.JSONDecoder()
    text = source.text
    try:
        if not isinstance(json.loads(text), list):
            raise source.error("must be a list of prompt lines or objects", 1)
    except json.JSONDecodeError as error:
        raise source.error(f"not JSON: {error.msg}", error.lineno, error.colno) from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, brackets without end
        raise source.error(f"not a list of prompts: {error}") from None
    at = text.index("[") + 1
    while True:
        at = re.compile(r"[\s,]*").match(text, at).end()  # type: ignore[union-attr]  # matches the empty string
        if text[at] == "]":
            return
        value, end = decoder.raw_decode(text, at)
        line, column = source.place(at)
        if isinstance(value, str):
            yield RawEntry(value, line, column, columns=json_columns(text[at + 1 : end - 1], column + 1))
        elif isinstance(value, dict):
            keys = {match[1]: source.place(match.start()) for match in re.compile(JSON_KEY).finditer(text, at, end)}
            yield RawEntry(value, line, column, keys=keys)  # pyright: ignore[reportUnknownArgumentType]
        else:
            raise source.error(f"an entry must be a prompt line or an object, not {value!r}", line, column)
        at = end


JSON_KEY = r'"(\w+)"\s*:'
JSON_CHARACTER = r"\\u[dD][89abAB]..\\u[dD][c-fC-F]..|\\u....|\\.|."
"""One character of a JSON string as it is written: two escapes for one outside the basic plane, one escape, itself."""


def json_columns(written: str, first: int) -> list[int]:
    """Column of each character of a JSON string, from the text between its quotes, whose first column is `first`."""
    return [first + match.start() for match in re.finditer(JSON_CHARACTER, written)]


def read_toml(source: PromptText) -> Iterator[RawEntry]:
    """Each `[[prompt.subset]]` over the defaults in `[prompt]`."""
    try:
        data = tomllib.loads(source.text)
    except (ValueError, RecursionError) as error:  # a TOMLDecodeError is a ValueError; so is a number far too long
        place = re.search(r"\(at line (\d+), column (\d+)\)", str(error))
        message = re.sub(r"\s*\(at .*\)$", "", str(error))
        where = (int(place[1]), int(place[2])) if place else (source.text.count("\n") + 1, None)
        raise source.error(f"not TOML: {message}", *where) from None
    defaults: Any = data.get("prompt")
    subsets: Any = defaults.get("subset") if isinstance(defaults, dict) else None  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
    if not isinstance(subsets, list) or not all(isinstance(subset, dict) for subset in subsets):  # pyright: ignore[reportUnknownVariableType]
        raise source.error("needs a [[prompt.subset]] table for each prompt", 1)
    shared: dict[str, Any] = {**defaults}
    del shared["subset"]
    keys, starts = toml_places(source.text)
    inline = keys.get(0, {}).get("subset", (1, 1))[0]
    for number_, subset in enumerate(subsets):  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
        line = starts[number_] if number_ < len(starts) else inline
        places = {**keys.get(0, {}), **keys.get(number_ + 1, {})}
        yield RawEntry({**shared, **subset}, line, keys=places)


def toml_places(text: str) -> tuple[dict[int, dict[str, Place]], list[int]]:
    """Place of each key, by table (0 is `[prompt]`, n the n-th subset), and the line where each subset starts."""
    keys: dict[int, dict[str, Place]] = {}
    starts: list[int] = []
    for number_, line in enumerate(text.split("\n"), start=1):
        if re.match(r"\s*\[\[\s*prompt\s*\.\s*subset\s*\]\]", line):
            starts.append(number_)
        elif match := re.match(r"""\s*["']?([A-Za-z0-9_-]+)["']?\s*=""", line):
            keys.setdefault(len(starts), {})[match[1]] = number_, match.start(1) + 1
    return keys, starts


READERS: Mapping[str, Callable[[PromptText], Iterator[RawEntry]]] = {
    ".txt": read_txt,
    ".toml": read_toml,
    ".json": read_json,
}
