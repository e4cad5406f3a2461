"""What all wire types share.

Every type is frozen, rejects unknown fields, and encodes itself; nothing is ever pickled.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError


class FrozenModel(BaseModel):
    """Base of the wire types: immutable, strict about field names, hashable by content."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def unicode_text(text: str) -> str:
    r"""`text` with `\udcff` and the like, as Python makes of file names that are not Unicode, written out."""
    return text.encode(errors="backslashreplace").decode()


def digest(value: Any, digits: int = 16) -> str:
    """Hex digest of `value` as canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:digits]


def summary(error: ValidationError) -> str:
    """The first problems of a pydantic error on one line: `field: reason; field: reason`."""
    problems = error.errors(include_url=False, include_input=False)
    shown = [f"{'.'.join(str(part) for part in p['loc']) or 'value'}: {p['msg']}" for p in problems[:3]]
    more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
    return "; ".join(shown) + more
