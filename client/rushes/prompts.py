"""Prompt files, in the three formats that musubi-tuner and its relatives use.

    .txt    one prompt a line, options behind it: `a red ball --w 480 --h 832 --f 81 --d 42`; `#` in column 1 comments
    .toml   `[prompt]` holds defaults, each `[[prompt.subset]]` one prompt
    .json   a list of prompt lines or of objects

Options start at ` --` directly followed by a letter; anything else is prompt text, so that "cats -- three of
them" stays whole. What the reference parser drops without a word (an unknown option, `--w 512px`, `--d -5`) is an
error that names file, line and column; with `lenient=True` it is a warning and the option is left out.
"""

from __future__ import annotations

import difflib
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from rushes.errors import PromptError
from rushes.jobs import Prompt

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

OPTION = re.compile(r"(?:^|(?<=\s))--(?=[A-Za-z])")
NAME = re.compile(r"[A-Za-z][A-Za-z_-]*")
RANDOM_SEED = "-1"
"""What other tools write for "draw one"."""

MAX_STEPS = 1000
"""`--s` is clamped to 1..1000, as in the reference."""

PATH_FIELDS = ("image_path", "end_image_path", "control_video_path", "control_image_path")


@dataclass(frozen=True)
class PromptLine:
    """One entry of a prompt file: a prompt, or the reason why there is none.

    `index` counts entries from 0 and is the number in the sample's file name; `line` is 1-based.
    """

    index: int
    line: int
    text: str
    prompt: Prompt | None = None
    error: PromptError | None = None
    warnings: tuple[str, ...] = ()


def load_prompts(path: str | Path, *, lenient: bool = False) -> list[Prompt]:
    """All prompts of a file.

    Raises:
        PromptError: the file cannot be read, or the first line that is wrong.
    """
    prompts: list[Prompt] = []
    for entry in read_prompts(path, lenient=lenient):
        if entry.prompt is None:
            raise entry.error or PromptError("not a prompt", file=str(path), line=entry.line)
        prompts.append(entry.prompt)
    return prompts


def read_prompts(path: str | Path, *, lenient: bool = False) -> list[PromptLine]:
    """Every entry of a prompt file, a bad line as an entry with its error.

    Raises:
        PromptError: the file as a whole cannot be read, or holds no prompt.
    """
    path = Path(path)
    try:
        reader = READERS[path.suffix.lower()]
    except KeyError:
        message = f"a prompt file ends in {', '.join(READERS)}; this one ends in {path.suffix or 'nothing'}"
        raise PromptError(message, file=str(path)) from None
    source = Source(path, read_text(path), lenient)
    entries = [source.entry(index, raw) for index, raw in enumerate(reader(source))]
    if not entries:
        raise PromptError("no prompts in this file", file=str(path))
    return entries


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
    path = Path(value).expanduser()
    candidates = [root / path for root in ([base] if base else []) + [Path.cwd()]]
    return str(next((found for found in candidates if found.exists()), candidates[0]).absolute())


@dataclass(frozen=True)
class RawEntry:
    """An entry as it stands in the file: a prompt line or a table, and where it starts (1-based)."""

    value: str | Mapping[str, Any]
    line: int
    column: int = 1
    key_lines: Mapping[str, int] = field(default_factory=dict[str, int])


@dataclass(frozen=True)
class Source:
    """A prompt file that has been read."""

    path: Path
    text: str
    lenient: bool

    def error(self, message: str, line: int | None = None, column: int | None = None) -> PromptError:
        """A `PromptError` at a place in this file."""
        return PromptError(message, file=str(self.path), line=line, column=column)

    def entry(self, index: int, raw: RawEntry) -> PromptLine:
        """Parse one raw entry; a problem becomes part of the entry."""
        text = raw.value if isinstance(raw.value, str) else json.dumps(raw.value, ensure_ascii=False, default=str)
        base = self.path.parent
        try:
            if isinstance(raw.value, str):
                prompt, warnings = parse_with_warnings(raw.value, lenient=self.lenient, base=base)
            else:
                prompt, warnings = self.table(raw.value, base)
        except PromptError as error:
            line = next((n for key, n in raw.key_lines.items() if f"'{key}'" in error.message), raw.line)
            column = None if error.column is None else raw.column + error.column - 1
            return PromptLine(index, raw.line, text, error=self.error(error.message, line, column))
        return PromptLine(index, raw.line, text, prompt=prompt, warnings=warnings)

    def table(self, values: Mapping[str, Any], base: Path) -> tuple[Prompt, tuple[str, ...]]:
        """A prompt from a `.toml` table or `.json` object, whose keys are the fields of `Prompt`."""
        known = {name: value for name, value in values.items() if name != "enum"}
        warnings: list[str] = []
        for name in [name for name in known if self.lenient and name not in Prompt.model_fields]:
            del known[name]
            warnings.append(f"unknown key {name!r} (left out)")
        if known.get("seed") == int(RANDOM_SEED):
            del known["seed"]
        if isinstance(known.get("sample_steps"), int):
            known["sample_steps"] = max(1, min(MAX_STEPS, known["sample_steps"]))
        if isinstance(known.get("control_image_path"), str):
            known["control_image_path"] = (known["control_image_path"],)
        return build({"prompt": "", **known}, base), tuple(warnings)


def read_text(path: Path) -> str:
    """The file's text (UTF-8, a byte order mark is dropped)."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise PromptError("there is no such prompt file", file=str(path)) from None
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        raise PromptError("not UTF-8 text; save the file as UTF-8", file=str(path), line=line) from None
    except OSError as error:
        raise PromptError(f"cannot be read: {error.strerror or error}", file=str(path)) from None


def read_txt(source: Source) -> Iterator[RawEntry]:
    """Prompt lines; blank lines and lines with `#` in column 1 do not count."""
    for number_, line in enumerate(source.text.split("\n"), start=1):
        if line.strip() and not line.startswith("#"):
            indent = len(line) - len(line.lstrip())
            yield RawEntry(line.strip(), number_, indent + 1)


def read_json(source: Source) -> Iterator[RawEntry]:
    """Entries of a JSON list, each with the place where it starts."""
    decoder = json.JSONDecoder()
    text = source.text
    try:
        if not isinstance(json.loads(text), list):
            raise source.error("must be a list of prompt lines or objects", 1)
    except json.JSONDecodeError as error:
        raise source.error(f"not JSON: {error.msg}", error.lineno, error.colno) from None
    at = text.index("[") + 1
    while True:
        at = re.compile(r"[\s,]*").match(text, at).end()  # type: ignore[union-attr]  # matches the empty string
        if text[at] == "]":
            return
        value, end = decoder.raw_decode(text, at)
        line = text.count("\n", 0, at) + 1
        column = at - (text.rfind("\n", 0, at) + 1) + 1
        if isinstance(value, str):
            yield RawEntry(value, line, column + 1)
        elif isinstance(value, dict):
            yield RawEntry(value, line, column)  # pyright: ignore[reportUnknownArgumentType]
        else:
            raise source.error(f"an entry must be a prompt line or an object, not {value!r}", line, column)
        at = end


def read_toml(source: Source) -> Iterator[RawEntry]:
    """Each `[[prompt.subset]]` over the defaults in `[prompt]`."""
    try:
        data = tomllib.loads(source.text)
    except tomllib.TOMLDecodeError as error:
        place = re.search(r"\(at line (\d+), column (\d+)\)", str(error))
        message = re.sub(r"\s*\(at .*\)$", "", str(error))
        where = (int(place[1]), int(place[2])) if place else (None, None)
        raise source.error(f"not TOML: {message}", *where) from None
    defaults: Any = data.get("prompt")
    subsets: Any = defaults.get("subset") if isinstance(defaults, dict) else None  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
    if not isinstance(subsets, list) or not all(isinstance(subset, dict) for subset in subsets):  # pyright: ignore[reportUnknownVariableType]
        raise source.error("needs a [[prompt.subset]] table for each prompt", 1)
    shared = {key: value for key, value in defaults.items() if key != "subset"}
    key_lines, starts = toml_places(source.text)
    for number_, subset in enumerate(subsets):  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
        line = starts[number_] if number_ < len(starts) else 1
        places = {**key_lines.get(0, {}), **key_lines.get(number_ + 1, {})}
        yield RawEntry({**shared, **subset}, line, key_lines=places)


def toml_places(text: str) -> tuple[dict[int, dict[str, int]], list[int]]:
    """Line of each key, by table (0 is `[prompt]`, n the n-th subset), and the line where each subset starts."""
    keys: dict[int, dict[str, int]] = {}
    starts: list[int] = []
    for number_, line in enumerate(text.split("\n"), start=1):
        if re.match(r"\s*\[\[\s*prompt\s*\.\s*subset\s*\]\]", line):
            starts.append(number_)
        elif match := re.match(r"\s*([A-Za-z0-9_-]+)\s*=", line):
            keys.setdefault(len(starts), {})[match[1]] = number_
    return keys, starts


READERS: Mapping[str, Callable[[Source], Iterator[RawEntry]]] = {
    ".txt": read_txt,
    ".toml": read_toml,
    ".json": read_json,
}
