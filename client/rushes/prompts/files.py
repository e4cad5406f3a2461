"""Prompt files, in the three formats that musubi-tuner and its relatives use (see `formats`).

Every mistake is an error that names file, line and column (see `lines` for what counts as one); with `lenient=True` it
is a warning and the option is left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rushes._paths import expanded
from rushes._terminal import printable
from rushes.errors import PromptError
from rushes.families.prompt_options import PATH_FIELDS
from rushes.prompts.fields import build, build_lenient, let_pass
from rushes.prompts.formats import READERS, PromptText, RawEntry
from rushes.prompts.lines import checked, first_option, parse_line, parse_with_warnings
from rushes.prompts.mistakes import INVISIBLE
from rushes.prompts.options import FIELD_OF_OPTION, MAX_STEPS, RANDOM_SEED
from rushes.wire.jobs import Prompt

__all__ = ["PromptLine", "load_prompts", "parse_line", "read_prompts"]

EMPTY = "the prompt is empty: the sample shows what the model makes of no text at all"
CONTINUED = "ends in a backslash: a prompt does not go on in the next line; write it on one line"
OPTIONS_ALONE = (
    "options without a prompt: put them behind their prompt, on the same line "
    '(an empty prompt is written {"prompt": "", ...} in a .json file)'
)

UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
NULS_OF_UTF16 = 4
"""A file of which more than every fourth byte is NUL is UTF-16 or UTF-32."""


@dataclass(frozen=True)
class PromptLine:
    """One entry of a prompt file: a prompt, or the reason why there is none.

    `index` counts entries from 0 and is the number in the sample's file name; `line` is 1-based.
    """

    file: str
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
    path = expanded(path)
    try:
        reader = READERS[path.suffix.lower()]
    except KeyError:
        message = f"a prompt file ends in {', '.join(READERS)}; this one ends in {path.suffix or 'nothing'}"
        raise PromptError(message, file=str(path)) from None
    source = PromptText(path, read_text(path))
    entries = [entry(source, index, raw, lenient) for index, raw in enumerate(reader(source))]
    if not entries:
        raise PromptError("no prompts in this file", file=str(path))
    return entries


def warning_lines(lines: Iterable[PromptLine]) -> Iterator[str]:
    """Every warning of a file with its place, for a terminal or a log."""
    for line in lines:
        yield from (printable(f"{line.file}:{line.line}: {warning}") for warning in line.warnings)


def entry(source: PromptText, index: int, raw: RawEntry, lenient: bool) -> PromptLine:
    """Parse one raw entry; a problem becomes part of the entry."""
    text = raw.value if isinstance(raw.value, str) else json.dumps(raw.value, ensure_ascii=False, default=str)
    text = text.encode("utf-8", "replace").decode()  # a JSON escape can hold half a character, which no record can
    base, file = source.path.parent, str(source.path)
    read = from_line if isinstance(raw.value, str) else from_table
    try:
        prompt, warnings = read(raw.value, base, lenient)  # type: ignore[operator]  # pyright: ignore[reportArgumentType]
    except PromptError as error:
        return PromptLine(file, index, raw.line, text, error=source.error(error.message, *raw.place(error)))
    if not re.sub(rf"[\s{INVISIBLE}]", "", prompt.prompt):
        warnings = (*warnings, EMPTY)
    return PromptLine(file, index, raw.line, text, prompt=prompt, warnings=warnings)


def from_line(line: str, base: Path, lenient: bool) -> tuple[Prompt, tuple[str, ...]]:
    """A prompt from a line of a file, and warnings about it."""
    broken = ending_mistake(line)
    if broken is None and first_option(line) == 0:
        broken = PromptError(OPTIONS_ALONE, column=1)
    if broken and not lenient:
        raise broken
    prompt, warnings = parse_with_warnings(line, lenient=lenient, base=base)
    return prompt, ((let_pass(broken, "read as it stands"), *warnings) if broken else warnings)


def ending_mistake(line: str) -> PromptError | None:
    """What is wrong with a line that ends in a backslash; a directory's path may end so."""
    if not line.endswith("\\"):
        return None
    last_word = line.split()[-1]
    last_option = re.findall(r"--([A-Za-z]+)(?=[\s=])", line)[-1:]
    a_path = last_word != "\\" and FIELD_OF_OPTION.get("".join(last_option).lower()) in PATH_FIELDS
    return None if a_path else PromptError(CONTINUED, column=len(line))


def from_table(values: Mapping[str, Any], base: Path, lenient: bool) -> tuple[Prompt, tuple[str, ...]]:
    """A prompt from a `.toml` table or `.json` object, whose keys are the fields of `Prompt`; warnings about it."""
    known = {"prompt": "", **{name: value for name, value in values.items() if name != "enum"}}
    if known.get("seed") == int(RANDOM_SEED):
        del known["seed"]
    if isinstance(known.get("sample_steps"), int):
        known["sample_steps"] = max(1, min(MAX_STEPS, known["sample_steps"]))
    if known.get("discrete_flow_shift", 0) is None:
        known["dynamic_shift"] = True  # the one way to say so in the reference
    if isinstance(known.get("control_image_path"), str):
        known["control_image_path"] = (known["control_image_path"],)
    warnings = [
        warning
        for name in ("prompt", "negative_prompt")
        if isinstance(text := known.get(name), str)
        for warning in text_warnings(name, text, lenient)
    ]
    prompt = build_lenient(known, base, warnings) if lenient else build(known, base)
    return prompt, tuple(warnings)


def text_warnings(key: str, text: str, lenient: bool) -> list[str]:
    """Warnings about the text of a table's key: options belong into keys of their own.

    Raises:
        PromptError: there is a mistake in it, unless `lenient`.
    """
    at = first_option(text)
    if at is None:
        return [f"{key}: {warning}" for warning in checked(text, lenient, key)]
    option = text[at:].split()[0]
    error = PromptError(f"{key}: {option} in the text is not read as an option; write a key of its own", key=key)
    if not lenient:
        raise error
    return [let_pass(error, "taken as text")]


def read_text(path: Path) -> str:
    """The file's text: UTF-8, without a byte order mark, lines ended by `\\n` whatever the file has.

    Raises:
        PromptError: it cannot be read, or is in another encoding.
    """
    try:
        content = path.read_bytes()
        text = content.decode("utf-8-sig")
    except FileNotFoundError:
        raise PromptError("there is no such prompt file", file=str(path)) from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        encoding = "UTF-16 and not UTF-8" if error.object.startswith(UTF16_MARKS) else "not UTF-8"
        raise PromptError(f"{encoding} text; save the file as UTF-8", file=str(path), line=line) from None
    except OSError as error:
        raise PromptError(f"cannot be read: {error.strerror or error}", file=str(path)) from None
    if content.count(0) * NULS_OF_UTF16 > len(content):
        raise PromptError("every other byte is NUL: this is UTF-16; save the file as UTF-8", file=str(path), line=1)
    if text.startswith("\ufeff"):
        raise PromptError("begins with two byte order marks; save it anew as UTF-8", file=str(path), line=1)
    return text.replace("\r\n", "\n").replace("\r", "\n")
