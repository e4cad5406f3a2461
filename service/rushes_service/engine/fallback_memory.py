"""Which fallbacks worked lately, so that the next sample of the same shape begins there; and when that is forgotten.

A fallback is remembered once it has succeeded, for its stage and shape alone. It is forgotten when memory is back, and
otherwise after a while: ten minutes at first, twice as long each time that it turns out to be needed still. A fallback
with approximate output is never where a sample begins: exact ways are tried first each time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from rushes.errors import OutOfMemory
from rushes_service.engine.fallbacks import Fallback

FIRST_S = 600.0
LONGEST_S = 4 * 3600.0
"""Seconds for which a fallback is remembered, at first and at most."""

GROWN_BYTES = 512 << 20
"""Memory that must have come back for a fallback to be forgotten; less is the allocator's own coming and going."""

Key = tuple[object, ...]

T = TypeVar("T")


@dataclass(frozen=True)
class Remembered:
    """A fallback that worked: its place in the list, until when it is remembered, and the memory there was."""

    at: int
    until: float
    kept_s: float
    available: int


class FallbackMemory:
    """The memory of one engine.

    Args:
        available: bytes that this process could use on its device.
        clock: seconds, monotonic.
    """

    def __init__(self, available: Callable[[], int], clock: Callable[[], float] = time.monotonic) -> None:
        self._available = available
        self._clock = clock
        self._remembered: dict[tuple[str, Key], Remembered] = {}
        self._kept_s: dict[tuple[str, Key], float] = {}

    def attempt(self, stage: str, shape: Key, fallbacks: Sequence[Fallback]) -> StageAttempt:
        """An attempt at a stage that begins with the fallback that its shape needed last, if that is no longer ago."""
        found = self._valid(stage, shape)
        exact = [at for at, fallback in enumerate(fallbacks) if fallback.output != "approximate"]
        start = min(found.at, exact[-1]) if found else 0
        return StageAttempt(self, stage, shape, tuple(fallbacks), start)

    def succeeded(self, attempt: StageAttempt) -> None:
        """Remember the fallback of an attempt that worked, if memory ran out in it."""
        key = (attempt.stage, attempt.shape)
        if not attempt.at:
            self._kept_s.pop(key, None)
        if not attempt.ran_out:
            return
        kept_s = min(self._kept_s.get(key, FIRST_S / 2) * 2, LONGEST_S)
        self._kept_s[key] = kept_s
        self._remembered[key] = Remembered(attempt.at, self._clock() + kept_s, kept_s, self._available())

    def needed(self, shape: Key) -> bool:
        """True while some stage of this shape needs a fallback: it had better be made alone."""
        return any(self._valid(stage, found) is not None for stage, found in list(self._remembered) if found == shape)

    def remembers(self, attempt: StageAttempt) -> bool:
        """True while the fallback that an attempt ended with is remembered."""
        found = self._valid(attempt.stage, attempt.shape)
        return found is not None and found.at == attempt.at

    def _valid(self, stage: str, shape: Key) -> Remembered | None:
        """What is remembered, unless its time is over or memory is back."""
        found = self._remembered.get((stage, shape))
        if found is None:
            return None
        if self._clock() < found.until and self._available() < found.available + GROWN_BYTES:
            return found
        del self._remembered[(stage, shape)]
        return None


@dataclass
class StageAttempt:
    """One stage of one sample: the fallbacks it may use and the current one."""

    memory: FallbackMemory
    stage: str
    shape: tuple[object, ...]
    fallbacks: tuple[Fallback, ...]
    at: int
    ran_out: bool = False
    """True once memory has run out in this attempt."""

    @property
    def fallback(self) -> Fallback:
        """The fallback to try now."""
        return self.fallbacks[self.at]

    def next_fallback(self, error: OutOfMemory) -> None:
        """Go on to the next fallback; raises `error` if there is none."""
        if self.at + 1 >= len(self.fallbacks):
            raise error
        self.ran_out = True
        self.at += 1

    def succeeded(self) -> None:
        """Let samples of the same shape begin with the current fallback, for a while."""
        self.memory.succeeded(self)

    def run(self, work: Callable[[Fallback], T], free: Callable[[], None]) -> T:
        """Return the result of `work` with the first fallback that fits; call `free` before each one but the default.

        Raises:
            OutOfMemory: the last fallback ran out of memory, too.
        """
        while True:
            if self.at:
                # Here no error is in flight, which would keep the tensors of the failed attempt.
                free()
            try:
                result = work(self.fallback)
            except OutOfMemory as error:
                self.next_fallback(error)
            else:
                self.succeeded()
                return result

    def facts(self) -> dict[str, str] | None:
        """Facts for the receipt; None if the default fitted. The key is called `rung` since the first receipts."""
        return {"rung": self.fallback.name, "output": self.fallback.output} if self.at else None

    def warning(self) -> str | None:
        """Warns of an approximate output."""
        if self.fallback.output != "approximate":
            return None
        return f"memory ran out: the {self.stage} stage used {self.fallback.name}, its output is approximate"
