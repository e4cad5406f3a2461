"""One line of a prompt file: prompt text, then options (`a red ball --w 480 --h 832 --d 42`).

Options start at ` --` directly followed by a letter; anything else is prompt text, so that "cats -- three of
them" stays whole. What the reference parser drops without a word (an unknown option, `--w 512px`, `--d -5`), or takes
for text (`—w 512`), is an error with its column; with `lenient=True` it is a warning and the option is left out.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from rushes.errors import PromptError
from rushes.families.prompt_options import OPTION_OF_FIELD
from rushes.prompts.fields import build, build_lenient, let_pass
from rushes.prompts.mistakes import find_mistakes
from rushes.prompts.options import FIELD_OF_OPTION, READ_VALUE, REPEATED, field_meant
from rushes.wire.jobs import Prompt

OPTION = re.compile(r"(?:^|(?<=\s))--(?=[A-Za-z])")
NAME = re.compile(r"[A-Za-z][A-Za-z_-]*")


def parse_line(text: str, *, lenient: bool = False, base: Path | None = None) -> Prompt:
    """One prompt line as a `Prompt`. Relative paths are looked up below `base`, then in the working directory.

    Raises:
        PromptError: with the 1-based column of the offending option.
    """
    return parse_with_warnings(text, lenient=lenient, base=base)[0]


def parse_with_warnings(text: str, *, lenient: bool, base: Path | None) -> tuple[Prompt, tuple[str, ...]]:
    """Like `parse_line`, with what `lenient` let pass, and what may have been meant otherwise."""
    warnings = checked(text, lenient)
    starts = [match.start() for match in OPTION.finditer(text)]
    # The one blank before `--` separates; further blanks belong to the prompt, as in the reference.
    head = text[: max(starts[0] - 1, 0)] if starts else text
    values: dict[str, Any] = {"prompt": head}
    columns: dict[str, int] = {}
    for start, following in zip(starts, [*starts[1:], len(text) + 1], strict=False):
        try:
            columns[read_option(text[start + 2 : following - 1], start + 1, values)] = start + 1
        except PromptError as error:
            if not lenient:
                raise
            warnings.append(let_pass(error))
    prompt = build_lenient(values, base, warnings, columns) if lenient else build(values, base, columns)
    return prompt, tuple(warnings)


def checked(text: str, lenient: bool, key: str | None = None) -> list[str]:
    """Warnings about text that was probably meant otherwise.

    Raises:
        PromptError: something was certainly meant otherwise, unless `lenient`; it names `key`.
    """
    warnings: list[str] = []
    for mistake in find_mistakes(text):
        error = PromptError(mistake.message, column=mistake.column, key=key)
        if mistake.certain and not lenient:
            raise error
        warnings.append(let_pass(error, "taken as text"))
    return warnings


def first_option(text: str) -> int | None:
    """Where in a text the first known option starts, from 0; None if there is none."""
    for match in OPTION.finditer(text):
        name = NAME.match(text, match.end())
        if name and name.group().lower() in FIELD_OF_OPTION:
            return match.start()
    return None


def read_option(body: str, column: int, values: dict[str, Any]) -> str:
    """Read one option (`w 512`, without its dashes) into `values`; returns its field."""
    match = NAME.match(body)
    name = match.group().lower() if match else ""
    field = FIELD_OF_OPTION.get(name)
    if field is None:
        raise unknown_option(name, column)
    rest = body[len(name) :].removeprefix("=")
    if rest.strip() == "":
        raise PromptError(f"--{name} needs a value", column=column)
    if rest == body[len(name) :] and not rest[0].isspace():
        raise PromptError(f"put a blank between --{name} and its value", column=column)
    if field in values and field not in REPEATED:
        raise PromptError(f"--{name} is given twice", column=column)
    try:
        value = READ_VALUE[field](rest)
    except ValueError as error:
        raise PromptError(f"--{name} {rest.strip()}: {error}", column=column) from None
    values[field] = (*values.get(field, ()), value) if field in REPEATED else value
    return field


def unknown_option(name: str, column: int) -> PromptError:
    """What to say of an option that does not exist."""
    meant = field_meant(name)
    hint = f"did you mean {OPTION_OF_FIELD[meant]}? " if meant else ""
    return PromptError(f"unknown option --{name}; {hint}known: {' '.join(OPTION_OF_FIELD.values())}", column=column)
