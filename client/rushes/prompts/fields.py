"""Fields of a prompt, as a line or a table gives them, made into a `Prompt`."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from rushes._paths import absolute
from rushes.errors import PromptError
from rushes.families.prompt_options import OPTION_OF_FIELD, PATH_FIELDS
from rushes.prompts.options import field_meant
from rushes.wire.jobs import Prompt

QUOTES = {'"': '"', "'": "'", "\u201c": "\u201d", "\u2018": "\u2019", "\u201e": "\u201c", "\u00ab": "\u00bb"}
"""Quotation marks that people put around paths: opening and closing."""


def build(values: Mapping[str, Any], base: Path | None, columns: Mapping[str, int] | None = None) -> Prompt:
    """A `Prompt` from its fields, paths made absolute. A path that is the empty text counts as not given.

    Args:
        columns: of a prompt line: where each field's option stands, for the error.

    Raises:
        PromptError: a field is unknown or has a value it cannot have.
    """
    check_names(values)
    values = {name: value for name, value in values.items() if value is not None}
    for name, value in values.items():
        if isinstance(value, str) and re.search("[\ud800-\udfff]", value):
            raise PromptError(f"{name}: holds half a character (a lone surrogate)", key=name)
    for name in PATH_FIELDS:
        if name in values:
            values[name] = located(values[name], base)
            if values[name] is None:
                del values[name]
    try:
        return Prompt(**values)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        key = str(problem["loc"][0])
        column = (columns or {}).get(key)
        where = ".".join(str(part) for part in problem["loc"]) if column is None else OPTION_OF_FIELD[key]
        got = "" if problem["type"] == "missing" else f" (got {shortened(problem['input'])})"
        raise PromptError(f"{where}: {problem['msg']}{got}", column=column, key=key) from None


def check_names(values: Mapping[str, Any]) -> None:
    """Raise `PromptError` for a key that is no field of `Prompt`."""
    unknown = next((name for name in values if name not in Prompt.model_fields), None)
    if unknown is not None:
        meant = field_meant(unknown, ("prompt",))
        hint = f"did you mean {meant!r}? " if meant else ""
        raise PromptError(f"unknown key {unknown!r}; {hint}known: {', '.join(Prompt.model_fields)}", key=unknown)


def build_lenient(
    values: Mapping[str, Any], base: Path | None, warnings: list[str], columns: Mapping[str, int] | None = None
) -> Prompt:
    """Like `build`, but a wrong field is left out with a warning. Only the prompt text itself is beyond mending."""
    remaining = dict(values)
    while True:
        try:
            return build(remaining, base, columns)
        except PromptError as error:
            if error.key is None or error.key == "prompt":
                raise
            del remaining[error.key]
            warnings.append(let_pass(error))


def let_pass(error: PromptError, instead: str = "left out") -> str:
    """The warning for a mistake that `lenient` lets pass, and what is done instead."""
    return f"{column_text(error.column)}{error.message} ({instead})"


def column_text(column: int | None) -> str:
    """`column 7: `, or nothing."""
    return "" if column is None else f"column {column}: "


def shortened(value: Any) -> str:
    """A value for a message, cut when it is long."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def located(value: Any, base: Path | None) -> Any:
    """Absolute form of a path or list of paths: below `base` if it is there, else below the working directory.

    Quotation marks around a path are taken off. Returns None for the empty text; in a list it is dropped.
    """
    if isinstance(value, (list, tuple)):
        found: list[Any] = [located(item, base) for item in value]  # pyright: ignore[reportUnknownVariableType]
        return tuple(item for item in found if item is not None)
    if not isinstance(value, str):
        return value
    path = unquoted(value)
    if not path.strip():
        return None
    # os.path rather than Path: these never raise, whatever a user has written (`~nobody/x`, a name far too long).
    path = os.path.expanduser(path)  # noqa: PTH111
    candidates = [os.path.join(root, path) for root in ([str(base)] if base else []) + [""]]  # noqa: PTH118
    existing = next((there for there in candidates if os.path.exists(there)), candidates[0])  # noqa: PTH110
    return str(absolute(existing))


def unquoted(path: str) -> str:
    """`path` without the quotation marks around it, and without blanks around those."""
    bare = path.strip()
    quoted = len(bare) > 1 and bare[0] in QUOTES and bare[-1] in (QUOTES[bare[0]], bare[0])
    return bare[1:-1].strip() if quoted else path
