"""The lease of one running sample: renewed by its own thread, watched by the sampling thread.

Denoising never waits for the network. The sampling thread notes how far it is and looks at flags; the lease thread
carries the first to Redis and brings the second back.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from rushes.errors import LeaseLost, QueueUnavailable, SampleCancelled, SampleHandedBack
from rushes_service.queue import Queue, Reservation

logger = logging.getLogger("rushes.worker")


@dataclass
class Shutdown:
    """A worker's wish to stop, and the moment from which its sample may not go on."""

    grace_s: float
    asked: threading.Event = field(default_factory=threading.Event)
    deadline: float = float("inf")
    loading: bool = False
    """True while the sampling thread, which is the main one, loads a base model: for minutes, without a step."""

    def drain(self) -> None:
        """Stop after the current sample, however long it takes."""
        self.asked.set()

    def ask(self) -> None:
        """Stop after the current sample, or after the grace period; asked twice, at the next step."""
        grace_s = 0.0 if self.deadline < float("inf") else self.grace_s
        self.deadline = time.monotonic() + grace_s
        self.asked.set()

    @property
    def left_s(self) -> float:
        """Seconds until the deadline."""
        return self.deadline - time.monotonic()

    def interrupt_load(self) -> None:
        """End a load that would go on beyond the deadline; called by a signal in the main thread.

        Raises:
            SampleHandedBack: it is to be ended.
        """
        if self.loading and self.overdue:
            raise SampleHandedBack("the worker is shutting down, and the base model was still being loaded")

    @property
    def overdue(self) -> bool:
        """True when the running sample is to be handed back."""
        return time.monotonic() >= self.deadline


@dataclass(frozen=True)
class Progress:
    """How far a sample is: `step` of `total` within `stage`, and how many of them it makes a second."""

    stage: str = "load"
    step: int = 0
    total: int = 0
    rate: float = 0.0


class Lease:
    """Keeps one reservation while it is entered; the engine's `ProgressCallback` for that sample.

    Args:
        beat: called with the progress at every renewal (the worker tells what it is doing).
    """

    def __init__(
        self,
        queue: Queue,
        held: Reservation,
        run: str,
        *,
        heartbeat_s: float,
        shutdown: Shutdown,
        beat: Callable[[Progress], None],
    ) -> None:
        self.held = held
        self.progress = Progress()
        self._queue = queue
        self._run = run
        self._heartbeat_s = heartbeat_s
        self._shutdown = shutdown
        self._beat = beat
        self._stage_began = time.monotonic()
        self._reported: Progress | None = None
        self._state: str = "ok"
        self._last_error = ""
        self._away: set[str] = set()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="rushes-lease", daemon=True)

    def __enter__(self) -> Lease:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.progress.stage == "load":
            self._shutdown.loading = False
        self._done.set()
        self._thread.join()

    # The sampling thread.

    def stage(self, name: str, total: int = 0) -> None:
        """Note that a stage begins, and raise if the sample is to stop."""
        if "load" in (name, self.progress.stage):
            self._shutdown.loading = name == "load"
        self.progress = Progress(name, 0, total)
        self._stage_began = time.monotonic()
        self.check()

    def step(self, done: int, total: int) -> None:
        """Note that a step is done, and raise if the sample is to stop."""
        self.progress = Progress(self.progress.stage, done, total, done / (time.monotonic() - self._stage_began + 1e-9))
        self.check()

    def check(self) -> None:
        """Raise if the sample is to stop.

        Raises:
            SampleCancelled, LeaseLost, SampleHandedBack
        """
        if self._state == "cancel":
            raise SampleCancelled("cancelled while it was running")
        if self._state == "lost":
            raise LeaseLost(f"sample {self.held.id} belongs to another worker now")
        if self._shutdown.overdue:
            raise SampleHandedBack("the worker is shutting down")

    def rest(self, seconds: float) -> None:
        """Wait; raises as `check`, within a heartbeat of the reason."""
        end = time.monotonic() + seconds
        while (left_s := end - time.monotonic()) > 0:
            self.check()
            time.sleep(min(left_s, self._heartbeat_s))
        self.check()

    def guard(self) -> None:
        """Ask Redis at this moment whether the sample is still ours; called before a file gets its name.

        While Redis is away this waits: the work is done, and only Redis knows whose it is.

        Raises:
            SampleCancelled, LeaseLost, SampleHandedBack
        """
        level = logging.WARNING
        while True:
            try:
                self._renew()
                break
            except QueueUnavailable as error:
                logger.log(level, "the finished sample %s waits for its file name: %s", self.held.id, error)
                level = logging.DEBUG  # an outage is told once, and its end by `_outlived`
                self.check()
                time.sleep(self._heartbeat_s)
        self.check()

    # The lease thread.

    def _keep(self) -> None:
        while not self._done.wait(self._heartbeat_s):
            # Apart: a sample must not be lost because its worker cannot say how it is.
            if self._outlived(self._renew, "its lease is not renewed"):
                self._outlived(lambda: self._beat(self.progress), "its worker is not announced")

    def _outlived(self, work: Callable[[], None], otherwise: str) -> bool:
        """Do `work` and log whatever it raises: without this thread the sample is lost. False if Redis is away.

        An outage is logged when it begins and when it has ended, not at every heartbeat.
        """
        try:
            work()
        except QueueUnavailable as error:
            # Work goes on: should the lease run out meanwhile, finishing is fenced.
            level = logging.DEBUG if otherwise in self._away else logging.WARNING
            self._away.add(otherwise)
            logger.log(level, "sample %s: %s for now: %s", self.held.id, otherwise, error)
            return False
        except Exception as error:  # whatever it is, the next heartbeat tries again
            known = str(error) == self._last_error
            self._last_error = str(error)
            logger.error("sample %s: %s for now: %s", self.held.id, otherwise, error, exc_info=not known)
        if otherwise in self._away:
            self._away.remove(otherwise)
            logger.info("sample %s: Redis is back", self.held.id)
        return True

    def _renew(self) -> None:
        progress = self.progress
        state = self._queue.renew(
            self.held, self._run, progress.stage, progress.step, progress.total, news=progress != self._reported
        )
        self._reported = progress
        if self._state != "lost":
            self._state = state
