"""The trackers that accelerate keeps for a trainer, as places where samples are shown."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import Any

from rushes.errors import RushesError
from rushes.trackers import TensorBoardTracker, Tracker, WandbTracker
from rushes.wire.results import SampleResult

logger = logging.getLogger("rushes")

SHOWN_BY: Mapping[str, Callable[[Any], Tracker]] = {
    "tensorboard": lambda tracker: TensorBoardTracker(Path(tracker.logging_dir) / "samples"),
    "wandb": lambda tracker: WandbTracker(tracker.run),
}
"""Name of one of accelerate's trackers -> what shows samples in its run, without moving its step."""


class ResultLogger:
    """One of accelerate's trackers, kept open until the last sample is in it."""

    def __init__(self, tracker: Any) -> None:
        self.tracker = tracker
        self._samples: Tracker | None = None
        if tracker.name in SHOWN_BY:
            with log_exceptions(f"no samples are shown in {tracker.name}"):
                self._samples = SHOWN_BY[tracker.name](tracker)
        else:
            logger.warning("rushes: samples are not shown in %s; `rushes track` shows them elsewhere", tracker.name)
        self._finish: Callable[[], Any] = tracker.finish
        self._finished = False
        tracker.finish = self._delay

    def _delay(self) -> None:
        """In the place of the tracker's `finish`: trainers call that before the last samples can be here."""
        self._finished = True

    def log(self, result: SampleResult) -> None:
        """Show one sample."""
        if self._samples is not None:
            self._samples.log(result)

    def close(self) -> None:
        """Finish the tracker, if the trainer has wanted that."""
        if self._samples is not None:
            self._samples.close()
        self.tracker.finish = self._finish
        if self._finished:
            self._finish()


@contextlib.contextmanager
def log_exceptions(consequence: str) -> Generator[None]:
    """Inside, an exception is a warning."""
    try:
        yield
    except Exception as error:
        known = isinstance(error, (OSError, RushesError))
        logger.warning("rushes: %s: %s; training goes on", consequence, error, exc_info=not known)
