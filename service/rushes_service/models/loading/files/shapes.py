"""A model's configuration as far as the shapes of its weights tell it, by kind of model. Needs no torch."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rushes.errors import ModelError

Config = dict[str, Any]
Derive = Callable[["Shapes", Mapping[str, Any]], Config]
"""What shapes tell, given what a published model of the kind has where they tell nothing (width of a head)."""


class Shapes:
    """Shapes of a file's tensors by name, without the prefix that all of them have."""

    def __init__(self, path: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.path = path
        self._shapes = shapes

    def has(self, *names: str) -> bool:
        """True if any of these tensors is there."""
        return any(name in self._shapes for name in names)

    def shape(self, *names: str) -> tuple[int, ...]:
        """Shape of the first of `names` that is there.

        Raises:
            ModelError: none is.
        """
        for name in names:
            if name in self._shapes:
                return self._shapes[name]
        raise ModelError(f"{self.path} lacks {names[0]}: the file is incomplete, or of another model")

    def rows(self, *names: str) -> int:
        """The first size of a tensor."""
        return self.shape(*names)[0]

    def columns(self, *names: str) -> int:
        """The second size of a tensor."""
        return self.shape(*names)[1]

    def count(self, pattern: str) -> int:
        """How many there are of what `pattern` numbers in its first group, from 0."""
        numbers = [int(match[1]) for name in self._shapes if (match := re.match(pattern, name))]
        return max(numbers, default=-1) + 1


def heads(width: int, size: int, path: Path) -> int:
    """How many heads of `size` make `width`.

    Raises:
        ModelError: it is no whole number of them.
    """
    if not size or width % size:
        raise ModelError(unpublished(path, "width", width))
    return width // size


def unpublished(path: Path, key: str, value: Any) -> str:
    """Says what to do about a model whose configuration cannot be told from its shapes."""
    return (
        f"{path} has {key} {value}, as no published model has, and shapes do not tell everything about it: put its "
        f"diffusers config.json beside it, as {path.with_suffix('.config.json').name}"
    )
