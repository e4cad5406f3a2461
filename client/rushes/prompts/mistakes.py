"""Text that was meant as an option and is none: `—w 512` with the dash of a word processor, `cat--w 512`, `-w 512`.

What cannot be anything else is an error: the sample would be made in another size than was asked for. What may be
prose ("he said —i am") is a warning.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

from rushes.families.prompt_options import OPTION_OF_FIELD, PATH_FIELDS
from rushes.prompts.options import FIELD_OF_OPTION, NUMBERS, OTHER_NAMES

DASHES = "-\u2010\u2011\u2012\u2013\u2014\u2015\u2212\u2e3a\u2e3b\u2043\ufe58\ufe63\uff0d\u02d7\u30fc"
"""Characters that look like a hyphen, the hyphen first."""

INVISIBLE = "\u00ad\u034f\u061c\u115f\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff"
"""Characters without a shape, as web pages and chat programs leave them in text. A range in a regular expression."""

NARROW = {
    code: code - 0xFEE0 for code in (*range(0xFF10, 0xFF1B), 0xFF1D, *range(0xFF21, 0xFF3B), *range(0xFF41, 0xFF5B))
}
"""Full-width letters, digits, colon and equals sign -> those of ASCII, as input methods of East Asia write them."""

NAMES = {**FIELD_OF_OPTION, **OTHER_NAMES, **{field: field for field in OPTION_OF_FIELD}}

CANDIDATE = re.compile(
    rf"(?P<dashes>[{INVISIBLE}]*[{DASHES}][{DASHES}{INVISIBLE}]*)(?P<gap>[^\S\n]?)"
    rf"(?P<name>{'|'.join(sorted(NAMES, key=len, reverse=True))})"
    rf"(?P<after>[{INVISIBLE}]*(?:[\s=:]+|$)[{INVISIBLE}]*|(?=\d))(?P<value>\S*)",
    re.IGNORECASE,
)
"""Dashes, the name of an option, and the first word behind it."""

NUMBER = re.compile(rf"[+{DASHES}]?(\d|\.\d)")
PATH = re.compile(r"""["'“].|\S*[/\\]\S|\S*\.[A-Za-z0-9]{2,5}$""")
"""How a path begins: with a quotation mark, or a word with a separator or an ending in it."""

BROKEN = {"\0": "a NUL character; is the file UTF-16? save it as UTF-8", "\ufeff": "a byte order mark; remove it"}
"""Characters that are never meant, and what to do about each."""


@dataclass(frozen=True)
class Mistake:
    """Something that looks like a mistake.

    `column` counts from 1. `certain` is True where the text can hardly mean anything else.
    """

    column: int
    message: str
    certain: bool = True


def find_mistakes(text: str) -> list[Mistake]:
    """What in a prompt's text was probably meant otherwise, in the order of the columns."""
    found = [Mistake(match.start() + 1, f"holds {BROKEN[match.group()]}") for match in re.finditer("[\0\ufeff]", text)]
    return sorted([*found, *misread_options(text)], key=lambda mistake: mistake.column)


def misread_options(text: str) -> Iterator[Mistake]:
    """Options that are taken for text."""
    for match in CANDIDATE.finditer(text.translate(NARROW)):
        field = NAMES[match["name"].lower()]
        reasons = list(reasons_against(match, text))
        sure = certain(match, text)
        if reasons and sure is not None:
            shown = text[match.start("dashes") : match.end("name")].strip()
            option = OPTION_OF_FIELD[field]
            message = f"{shown!r} is not read as an option: {', '.join(reasons)}; write a blank and {option}"
            yield Mistake(match.start() + 1, message, sure)


def reasons_against(match: re.Match[str], text: str) -> Iterator[str]:
    """Why a candidate is no option; nothing for one that is."""
    dashes = match["dashes"]
    visible = re.sub(f"[{INVISIBLE}]", "", dashes)
    strange = next((dash for dash in visible if dash != "-"), None)
    if strange:
        yield f"{unicodedata.name(strange).lower()} (U+{ord(strange):04X}) is not the plain hyphen"
    elif len(visible) != 2:
        yield "it begins with one hyphen, not two" if len(visible) == 1 else f"it begins with {len(visible)} hyphens"
    if visible != dashes:
        hidden = next(character for character in dashes if character not in visible)
        yield f"an invisible character (U+{ord(hidden):04X}) is in the way"
    elif match.start() and not text[match.start() - 1].isspace():
        yield "no blank is before it"
    if text[match.start("name") : match.end("name")] != match["name"]:
        yield "its letters are full-width"
    if match["gap"]:
        yield "a blank is between the dashes and the name"


def certain(match: re.Match[str], text: str) -> bool | None:
    """True for what can only be an option, False for what may be one, None for text."""
    name, dashes, value = match["name"].lower(), match["dashes"], match["value"]
    field = NAMES[name]
    likely = looks_right(field, value)
    if likely is None:
        return None
    touching = match.start() > 0 and not text[match.start() - 1].isspace()
    if touching and (name not in FIELD_OF_OPTION or not match["after"]):
        return None  # "the stairs-steps 3", "x-w512"
    if touching and dashes == "-":
        return False if field in NUMBERS else None
    if match["gap"]:  # a dash between two blanks is punctuation, two are hardly
        return None if touching or not likely else dashes == "--"
    if not match["after"]:
        return dashes != "-"
    if likely or name in ("cn", "ci", "ei"):
        return True
    # "he said —I am", "—image of a cat"
    return False if match["name"] == name and name in FIELD_OF_OPTION else None


def looks_right(field: str, value: str) -> bool | None:
    """True if a word looks like the value of a field, False if it may be, None if it cannot be."""
    if field in NUMBERS:
        return True if NUMBER.match(value) else None
    if not value:
        return None
    return field in PATH_FIELDS and PATH.match(value) is not None
