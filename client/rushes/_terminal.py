"""Text of other people, made safe to print on a terminal."""

from __future__ import annotations

import time
import unicodedata

UNSAFE = frozenset({"Cc", "Zl", "Zp", "Cs", "Co", "Cn"})
"""Unicode categories that are written out: control characters (colours, cursor movements, line breaks) and characters
that have no shape."""

BIDIRECTIONAL = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""These change the direction of the text behind them."""


def printable(text: str) -> str:
    r"""`text` on one line, with what would steer the terminal written out: `\x1b[31m` for a change of colour.

    Joiners stay: emoji and some scripts are made with them.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(escaped(one) if one in BIDIRECTIONAL or unicodedata.category(one) in UNSAFE else one for one in text)


def escaped(character: str) -> str:
    r"""A character as Python writes it in a literal: `\n`, `\x1b`, `\u202e`."""
    return character.encode("unicode_escape").decode()


def printable_lines(text: str) -> str:
    """The same of a text of several lines, which stay lines."""
    return "\n".join(printable(line) for line in text.split("\n"))


def print_line(text: str) -> None:
    """Print a line with the time of day, at once."""
    print(f"{time.strftime('%H:%M:%S')}  {printable(text)}", flush=True)
