"""One finding of the doctor: how it is, and how to mend it."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Mark(str, enum.Enum):
    """`warn` works, but not as well as it could; `fail` does not work."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True)
class Finding:
    """The subject of a check, its result, and (unless it is ok) advice."""

    name: str
    mark: Mark
    found: str
    advice: str | None = None


def ok(name: str, found: str) -> Finding:
    """All is well."""
    return Finding(name, Mark.OK, found)


def warn(name: str, found: str, advice: str) -> Finding:
    """It works, but not as well as it could."""
    return Finding(name, Mark.WARN, found, advice)


def fail(name: str, found: str, advice: str) -> Finding:
    """It does not work."""
    return Finding(name, Mark.FAIL, found, advice)


def gib(count: float) -> str:
    """Bytes for people: `1.5 GiB`, or `12 MiB` below half a GiB."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**29 else f"{count / 2**20:.1f} MiB"
