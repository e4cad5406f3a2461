"""One line of a prompt file: prompt text, then options (`a red ball --w 480 --h 832 --d 42`).

Options start at ` --` directly followed by a letter; anything else is prompt text, so that "cats -- three of
them" stays whole. What the reference parser drops without a word (an unknown option, `--w 512px`, `--d -5`) is an
error with its column; with `lenient=True` it is a warning and the option is left out.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from rushes.errors import PromptError
from rushes.jobs import Prompt

OPTION = re.compile(r"(?:^|(?<=\s))--(?=[A-Za-z])")
NAME = re.compile(r"[A-Za-z][A-Za-z_-]*")
RANDOM_SEED = "-1"
"""What other tools write for "draw one"."""

MAX_STEPS = 1000
"""`--s` is clamped to 1..1000, as in the reference."""

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
    warnings: list[str] = []
    for start, following in zip(starts, [*starts[1:], len(text) + 1], strict=False):
        try:
            read_option(text[start + 2 : following - 1], start + 1, values)
        except PromptError as error:
            if not lenient:
                raise
            warnings.append(f"column {error.column}: {error.message} (left out)")
    return build(values, base), tuple(warnings)


def read_option(body: str, column: int, values: dict[str, Any]) -> None:
    """Read one option (`w 512`, without its dashes) into `values`."""
    match = NAME.match(body)
    name = match.group().lower() if match else ""
    option = OPTIONS.get(name)
    if option is None:
        close = difflib.get_close_matches(name, OPTIONS, n=1)
        hint = f"did you mean --{close[0]}? " if close else ""
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


def whole(text: str) -> int:
    """A whole number above zero."""
    if not text.strip().isdecimal() or int(text) == 0:
        raise ValueError("must be a whole number above 0")
    return int(text)


def steps(text: str) -> int:
    """Denoising steps, clamped to 1..1000."""
    if not text.strip().isdecimal():
        raise ValueError("must be a whole number")
    return max(1, min(MAX_STEPS, int(text)))


def seed(text: str) -> int | None:
    """A seed, or None (draw one) for -1."""
    if text.strip() == RANDOM_SEED:
        return None
    if not text.strip().isdecimal() or int(text) >= 2**63:
        raise ValueError("must be a whole number from 0 to 2^63-1, or -1 for a random seed")
    return int(text)


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


def build(values: Mapping[str, Any], base: Path | None) -> Prompt:
    """A `Prompt` from its fields, paths made absolute.

    Raises:
        PromptError: a field is unknown or has a value it cannot have.
    """
    unknown = [name for name in values if name not in Prompt.model_fields]
    if unknown:
        close = difflib.get_close_matches(unknown[0], Prompt.model_fields, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise PromptError(f"unknown key {unknown[0]!r}; {hint}known: {', '.join(Prompt.model_fields)}")
    values = {name: value for name, value in values.items() if value is not None}
    for name in PATH_FIELDS:
        if name in values:
            values[name] = locate(values[name], base)
    try:
        return Prompt(**values)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise PromptError(f"{where}: {problem['msg']} (got {problem['input']!r})") from None


def locate(value: Any, base: Path | None) -> Any:
    """Absolute form of a path or list of paths: below `base` if it is there, else below the working directory."""
    if isinstance(value, (list, tuple)):
        return tuple(locate(item, base) for item in value)  # pyright: ignore[reportUnknownVariableType]
    if not isinstance(value, str):
        return value
    try:
        path = Path(value).expanduser()
    except RuntimeError as error:  # `~somebody`, and there is no such user
        raise PromptError(f"{value}: {error}") from None
    candidates = [root / path for root in ([base] if base else []) + [Path.cwd()]]
    return str(next((found for found in candidates if found.exists()), candidates[0]).absolute())
