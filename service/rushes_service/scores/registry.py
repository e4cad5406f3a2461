"""The scores there are: the built-in one, and those of installed packages (entry point group `rushes.scores`).

A score is a callable; its package names a factory in its `pyproject.toml`:

    [project.entry-points."rushes.scores"]
    brightness = "my_package:make"

    def make(options: ScoreOptions) -> Score:
        return lambda frames, prompt: {"brightness": float(frames.mean()) / 255}
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rushes.errors import ConfigError

GROUP = "rushes.scores"

Score = Callable[[np.ndarray, str], Mapping[str, float]]
"""From frames, uint8 [T, H, W, 3], and the prompt's text to numbers by name. May raise anything."""


@dataclass(frozen=True)
class ScoreOptions:
    """What a factory is given: the text behind `NAME=`, the training pictures, and a torch device."""

    value: str = ""
    images: Path | None = None
    device: str = "cpu"


def clip(options: ScoreOptions) -> Score:
    """The built-in score `clip`; see `ClipScore`."""
    from rushes_service.scores.clip import ClipScore

    return ClipScore(options.value, images=options.images, device=options.device)


BUILT_IN: Mapping[str, Callable[[ScoreOptions], Score]] = {"clip": clip}


def make_scores(texts: Sequence[str], images: Path | None = None, device: str = "cpu") -> dict[str, Score]:
    """The scores of `--score NAME[=VALUE]` flags, by name.

    Raises:
        ConfigError: there is no such score, it is named twice, or it cannot be made.
    """
    found: dict[str, Score] = {}
    for text in texts:
        name, _, value = text.partition("=")
        if name in found:
            raise ConfigError(f"--score {name} is given twice")
        factory = BUILT_IN.get(name) or installed(name)
        try:
            found[name] = factory(ScoreOptions(value, images, device))
        except ConfigError:
            raise
        except Exception as error:  # a plug-in may raise anything
            raise ConfigError(f"--score {text} cannot be made: {type(error).__name__}: {error}") from error
    return found


def installed(name: str) -> Callable[[ScoreOptions], Score]:
    """The factory of an installed score.

    Raises:
        ConfigError: there is none of this name.
    """
    points = importlib.metadata.entry_points(group=GROUP)
    for point in points:
        if point.name == name:
            factory: Callable[[ScoreOptions], Score] = point.load()
            return factory
    known = sorted({*BUILT_IN, *(point.name for point in points)})
    raise ConfigError(f"--score {name}: there is no such score; there are: {', '.join(known)}")
