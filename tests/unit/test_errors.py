"""The error tree: drawn whole, each code its own."""

from __future__ import annotations

import inspect

from rushes import errors
from rushes.errors import JobNotFound, PromptError, RushesError

TREE = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, RushesError)]


def test_every_error_is_drawn_at_the_top_of_the_file() -> None:
    assert errors.__doc__ is not None
    for kind in TREE:
        assert f" {kind.__name__} " in errors.__doc__.replace("\n", " \n"), kind


def test_every_error_is_explained_and_has_a_code_of_its_own() -> None:
    assert all(kind.__doc__ for kind in TREE)
    codes = [kind.code for kind in TREE if "code" in vars(kind)]
    assert len(set(codes)) == len(codes)


def test_a_prompt_error_says_where_it_is() -> None:
    assert str(PromptError("no", file="p.txt", line=3, column=7)) == "p.txt:3:7: no"
    assert str(PromptError("no", column=7)) == "7: no"
    assert str(PromptError("no")) == "no"
    assert not issubclass(JobNotFound, PromptError)
