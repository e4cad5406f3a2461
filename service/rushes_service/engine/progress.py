"""What an engine tells of a sample while it makes it: stages, steps, seconds."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol


class ProgressCallback(Protocol):
    """Follows a sample. Both methods may raise a `SampleStopped` to end it; the engine lets that through."""

    def stage(self, name: str, total: int = 0) -> None:
        """A stage begins: "wait", "load", "lora", "encode", "denoise" or "decode", of `total` units if they can be
        counted. One that ran out of memory begins again.
        """

    def step(self, done: int, total: int) -> None:
        """`done` of the stage's `total` units have been made: denoising steps, then decoded frames."""


class NoProgress:
    """For work that nobody follows."""

    def stage(self, name: str, total: int = 0) -> None:
        """Nothing."""

    def step(self, done: int, total: int) -> None:
        """Nothing."""


@dataclass
class Stopwatch:
    """Seconds per stage."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextlib.contextmanager
    def timing(self, stage: str) -> Iterator[None]:
        """Add the time spent inside to `stage`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start
