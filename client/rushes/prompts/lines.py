"""One line of a prompt file: prompt text, then options (`a red ball --w 480 --h 832 --d 42`).

Options start at ` --` directly followed by a letter; anything else is prompt text, so that "cats -- three of
them" stays whole. What the reference parser drops without a word (an unknown option, `--w 512px`, `--d -5`) is an
error with its column; with `lenient=True` it is a warning and the option is left out.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from rushes.errors import PromptError
from rushes.wire.jobs import Prompt

OPTION = re.compile(r"(?:^|(?<=\s))--(?=[A-Za-z])")
NAME = re.compile(r"[A-Za-z][A-Za-z_-]*")
RANDOM_SEED = "-1"
"""What other tools write for "draw one"."""

MAX_STEPS = 1000
"""`--s` is clamped to 1..1000, as in the reference."""

MAX_DIGITS = 30
"""Digits read of a number: more than any bound here has, and few enough for `int`."""

PATH_FIELDS = ("image_path", "end_image_path", "control_video_path", "control_image_path")


def parse_line(text: str, *, lenient: bool = False, base: Path | None = None) -> Prompt:
    """One prompt line as a `Prompt`. Relative paths are looked up below `base`, then in the working directory.

    Raises:
        PromptError: with the 1-based column of the offending option.
    """
    return parse_with_warnings(text, lenient=lenient, base=base)[0]


def parse_with_warnings(text: str, *, lenient: bool, base: Path | None) -> tuple[Prompt, tuple[str, ...]]:
    """Like `parse_line`, with what `lenient` let pass."""
    starts = [match.start() for match in OPTION.finditer(text)]
    # The one blank before `--` separates; further blanks belong to the prompt, as in the reference.
    head = text[: max(starts[0] - 1, 0)] if starts else text
    values: dict[str, Any] = {"prompt": head}
    columns: dict[str, int] = {}
    warnings: list[str] = []
    for start, following in zip(starts, [*starts[1:], len(text) + 1], strict=False):
        try:
            columns[read_option(text[start + 2 : following - 1], start + 1, values)] = start + 1
        except PromptError as error:
            if not lenient:
                raise
            warnings.append(left_out(error))
    prompt = build_lenient(values, base, warnings, columns) if lenient else build(values, base, columns)
    return prompt, tuple(warnings)


def build_lenient(
    values: Mapping[str, Any], base: Path | None, warnings: list[str], columns: Mapping[str, int] | None = None
) -> Prompt:
    """Like `build`, but what cannot be is left out with a warning. Only the prompt text itself is beyond mending."""
    remaining = dict(values)
    while True:
        try:
            return build(remaining, base, columns)
        except PromptError as error:
            if error.key is None or error.key == "prompt":
                raise
            del remaining[error.key]
            warnings.append(left_out(error))


def left_out(error: PromptError) -> str:
    """The warning for an option that `lenient` lets pass."""
    where = "" if error.column is None else f"column {error.column}: "
    return f"{where}{error.message} (left out)"


def read_option(body: str, column: int, values: dict[str, Any]) -> str:
    """Read one option (`w 512`, without its dashes) into `values`; returns its field."""
    match = NAME.match(body)
    name = match.group().lower() if match else ""
    option = OPTIONS.get(name)
    if option is None:
        names = {**OPTION_OF_FIELD, **{short: f"--{short}" for short in OPTIONS}}
        close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
        hint = f"did you mean {names[close[0]]}? " if close else ""
        known = " ".join(f"--{known}" for known in OPTIONS)
        raise PromptError(f"unknown option --{name}; {hint}known: {known}", column=column)
    rest = body[len(name) :].removeprefix("=")
    if rest.strip() == "":
        raise PromptError(f"--{name} needs a value", column=column)
    if rest == body[len(name) :] and not rest[0].isspace():
        raise PromptError(f"put a blank between --{name} and its value", column=column)
    if option.field in values and not option.repeats:
        raise PromptError(f"--{name} is given twice", column=column)
    try:
        value = option.read(rest)
    except ValueError as error:
        raise PromptError(f"--{name} {rest.strip()}: {error}", column=column) from None
    values[option.field] = (*values.get(option.field, ()), value) if option.repeats else value
    return option.field


def digits(text: str) -> int | None:
    """A whole number that is not negative, else None. Very many digits are cut to a number that is too large."""
    text = text.strip().lstrip("0") or text.strip()[:1]
    return int(text[:MAX_DIGITS]) if text.isdecimal() else None


def whole(text: str) -> int:
    """A whole number above zero."""
    value = digits(text)
    if not value:
        raise ValueError("must be a whole number above 0")
    return value


def steps(text: str) -> int:
    """Denoising steps, clamped to 1..1000."""
    value = digits(text)
    if value is None:
        raise ValueError("must be a whole number")
    return max(1, min(MAX_STEPS, value))


def seed(text: str) -> int | None:
    """A seed, or None (draw one) for -1."""
    if text.strip() == RANDOM_SEED:
        return None
    value = digits(text)
    if value is None or value >= 2**63:
        raise ValueError("must be a whole number from 0 to 2^63-1, or -1 for a random seed")
    return value


def number(text: str) -> float:
    """A plain number that is not negative."""
    if not re.fullmatch(r"\s*(\d+\.?\d*|\.\d+)\s*", text):
        raise ValueError("must be a number, 0 or above")
    return float(text)


def signed_number(text: str) -> float:
    """A plain number of either sign."""
    if not re.fullmatch(r"\s*[+-]?(\d+\.?\d*|\.\d+)\s*", text):
        raise ValueError("must be a number")
    return float(text)


def raw_text(text: str) -> str:
    """Text as it stands behind the one separating blank."""
    return text[1:] if text[:1].isspace() else text


@dataclass(frozen=True)
class Option:
    """One option of a prompt line: the `Prompt` field it sets and how its value is read."""

    field: str
    read: Callable[[str], Any]
    repeats: bool = False


OPTIONS: Mapping[str, Option] = {
    "w": Option("width", whole),
    "h": Option("height", whole),
    "f": Option("frame_count", whole),
    "d": Option("seed", seed),
    "s": Option("sample_steps", steps),
    "g": Option("guidance_scale", number),
    "fs": Option("discrete_flow_shift", number),
    "l": Option("cfg_scale", number),
    "n": Option("negative_prompt", raw_text),
    "i": Option("image_path", str.strip),
    "ei": Option("end_image_path", str.strip),
    "cn": Option("control_video_path", str.strip),
    "ci": Option("control_image_path", str.strip, repeats=True),
    "of": Option("one_frame", str.strip),
    "m": Option("lora_multiplier", signed_number),
}


OPTION_OF_FIELD: Mapping[str, str] = {option.field: f"--{name}" for name, option in OPTIONS.items()}
"""How each field of `Prompt` is written in a prompt line."""


def build(values: Mapping[str, Any], base: Path | None, columns: Mapping[str, int] | None = None) -> Prompt:
    """A `Prompt` from its fields, paths made absolute.

    Args:
        columns: of a prompt line: where each field's option stands, for the error.

    Raises:
        PromptError: a field is unknown or has a value it cannot have.
    """
    unknown = [name for name in values if name not in Prompt.model_fields]
    if unknown:
        close = difflib.get_close_matches(unknown[0], Prompt.model_fields, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        known = ", ".join(Prompt.model_fields)
        raise PromptError(f"unknown key {unknown[0]!r}; {hint}known: {known}", key=unknown[0])
    values = {name: value for name, value in values.items() if value is not None}
    for name, value in values.items():
        if isinstance(value, str) and re.search("[\ud800-\udfff]", value):
            raise PromptError(f"{name}: holds half a character (a lone surrogate)", key=name)
    for name in PATH_FIELDS:
        if name in values:
            values[name] = locate(values[name], base)
    try:
        return Prompt(**values)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        key = str(problem["loc"][0])
        column = (columns or {}).get(key)
        where = ".".join(str(part) for part in problem["loc"]) if column is None else OPTION_OF_FIELD[key]
        got = "" if problem["type"] == "missing" else f" (got {shortened(problem['input'])})"
        raise PromptError(f"{where}: {problem['msg']}{got}", column=column, key=key) from None


def shortened(value: Any) -> str:
    """A value for a message, cut when it is long."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def locate(value: Any, base: Path | None) -> Any:
    """Absolute form of a path or list of paths: below `base` if it is there, else below the working directory."""
    if isinstance(value, (list, tuple)):
        return tuple(locate(item, base) for item in value)  # pyright: ignore[reportUnknownVariableType]
    if not isinstance(value, str):
        return value
    # os.path rather than Path: these never raise, whatever a user has written (`~nobody/x`, a name far too long).
    path = os.path.expanduser(value)  # noqa: PTH111
    candidates = [os.path.join(root, path) for root in ([str(base)] if base else []) + [""]]  # noqa: PTH118
    found = next((there for there in candidates if os.path.exists(there)), candidates[0])  # noqa: PTH110
    return str(Path(found).absolute())
