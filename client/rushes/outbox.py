"""The outbox: a background thread between a training loop and Redis.

    submit() ── deque ──> thread ──> snapshot, hash, prompts ──> spool file ──> Redis ──> spool file removed

The trainer's thread only appends to a deque. It does not wake the outbox thread, which would cost it a system call and
a fight for the interpreter lock: the thread looks by itself ten times a second.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from rushes.checkpoints import SNAPSHOT_DIR, SPOOL_DIR
from rushes.client import Client
from rushes.errors import CheckpointError, QueueUnavailable, RushesError, WireError
from rushes.jobs import JobError, SampleResult
from rushes.prompts import PromptLine
from rushes.spool import Parcel, Spool
from rushes.submission import Refused, Run, build_from_lines
from rushes.weights import Held

logger = logging.getLogger("rushes")

POLL_S = 0.1
FLUSH_POLL_S = 0.005
RESULTS_EVERY_S = 1.0
FIRST_RETRY_S = 0.5
LAST_RETRY_S = 15.0
ABANDONED_S = 24 * 3600
"""Age at which a snapshot that was never completed is taken for abandoned."""

EXIT_FLUSH_S = 5.0
"""How long a process that ends waits for its hand-offs to reach Redis or, failing that, the spool."""


class Handoff(NamedTuple):
    """One `submit` as it left the trainer's thread. `weights` is an error when they could not be had."""

    step: int
    epoch: int | None
    weights: Held | Exception | None


class Outbox:
    """Hands submissions over in the background, whatever Redis, the disk or the prompt file do.

    Args:
        run: what all its samples share.
        prompts: reads the prompt file anew for each submission.
        url: Redis URL, see `Client`.
    """

    def __init__(self, run: Run, prompts: Callable[[], Iterable[PromptLine]], url: str | None = None) -> None:
        self.run = run
        self.prompts = prompts
        self.url = url
        self.spool = Spool(Path(run.output_dir) / SPOOL_DIR)
        self.snapshots = Path(run.output_dir) / SNAPSHOT_DIR
        self.expected: set[str] = set()
        """Ids of samples that were handed over and whose results have not come back."""
        self._start()
        _open.add(self)

    def _start(self) -> None:
        """Set up for this process; a forked child begins with nothing of its parent's."""
        self._forked = False
        self._waiting: deque[tuple[int, int | None, Held | Exception | None]] = deque()
        self._results: deque[SampleResult] = deque()
        self._unsent: set[Path] = set()
        self._hurry = threading.Event()
        self._stopping = False
        self._client = Client(self.url, retries=0)
        self._cursor: str | None = None
        self._retry_s = FIRST_RETRY_S
        self._next_try = 0.0
        self._next_results = 0.0
        self._outage_logged = False
        self._thread = threading.Thread(target=self._work, name="rushes-outbox", daemon=True)
        self._thread.start()

    def put(self, step: int, epoch: int | None, weights: Held | Exception | None) -> None:
        """Take a submission from the trainer's thread. Never blocks, never raises."""
        if self._forked:
            self._start()
        self._waiting.append((step, epoch, weights))

    def results(self) -> list[SampleResult]:
        """Results that have come back since the last call. Never blocks."""
        found: list[SampleResult] = []
        while self._results:
            found.append(self._results.popleft())
        return found

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until everything is in Redis; False when time ran out (the rest is in the spool)."""
        if self._forked:
            return True
        deadline = None if timeout is None else time.monotonic() + timeout
        self._next_try = 0.0
        # Both are emptied last by the thread: a hand-off is in one of them until Redis has it.
        while self._waiting or self._unsent:
            self._hurry.set()
            if deadline is not None and time.monotonic() >= deadline:
                return False
            time.sleep(FLUSH_POLL_S)
        return True

    def close(self, timeout: float = EXIT_FLUSH_S) -> bool:
        """Hand over what is waiting and end the thread; False when something stays in the spool."""
        flushed = self.flush(timeout)
        if not self._forked:
            self._stopping = True
            self._hurry.set()
            self._thread.join(timeout)
            self._client.close()
        _open.discard(self)
        return flushed

    # The outbox thread.

    def _work(self) -> None:
        self._sweep()
        while not self._stopping:
            self._hurry.wait(POLL_S)
            self._hurry.clear()
            try:
                self._turn()
            except Exception:
                # The thread is the only way out of the training process: it must outlive any surprise.
                logger.exception("rushes: hand-off failed; it will be tried again")

    def _sweep(self) -> None:
        """Remove what a process that was killed has left half done."""
        for path in self.snapshots.glob("*.pending*"):
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_ctime > ABANDONED_S:
                    path.unlink()

    def _turn(self) -> None:
        while self._waiting:
            self._spool_one(Handoff(*self._waiting[0]))
            self._waiting.popleft()
        if time.monotonic() >= self._next_try:
            self._hand_over()
        if time.monotonic() >= self._next_results:
            self._collect()

    def _spool_one(self, handoff: Handoff) -> None:
        try:
            parcel = self._parcel(handoff)
        except (RushesError, OSError) as error:
            logger.error("rushes: step %d is not sampled: %s", handoff.step, error)
            return
        self._unsent.add(self.spool.write(parcel))
        for refused in parcel.refused:
            logger.error("rushes: prompt %d is not sampled: %s", refused.job.prompt_index, refused.error.message)

    def _parcel(self, handoff: Handoff) -> Parcel:
        """The jobs of a hand-off. Weights that cannot be had make a failed sample of every prompt."""
        lines = list(self.prompts())
        step, epoch = handoff.step, handoff.epoch
        try:
            if isinstance(handoff.weights, Exception):
                raise handoff.weights
            checkpoint = handoff.weights.keep(self.snapshots) if handoff.weights else None
        except Exception as error:  # noqa: BLE001 - it may come from the trainer's own save function
            reason = why_not(error)
            jobs, refused = build_from_lines(self.run, lines, checkpoint=None, step=step, epoch=epoch)
            return Parcel([], [*refused, *(Refused(job, reason) for job in jobs)])
        finally:
            if isinstance(handoff.weights, Held) and handoff.weights.descriptor is not None:
                os.close(handoff.weights.descriptor)
        return Parcel(*build_from_lines(self.run, lines, checkpoint=checkpoint, step=step, epoch=epoch))

    def _hand_over(self) -> None:
        try:
            for path in self.spool.waiting():
                self._push(path)
        except QueueUnavailable as error:
            if not self._outage_logged:
                logger.warning("rushes: %s. Samples wait in %s; training goes on", error, self.spool.directory)
            self._outage_logged = True
            self._next_try = time.monotonic() + self._retry_s
            self._retry_s = min(self._retry_s * 2, LAST_RETRY_S)
            return
        if self._outage_logged:
            logger.info("rushes: Redis is back; everything in the spool is handed over")
        self._outage_logged = False
        self._retry_s = FIRST_RETRY_S

    def _push(self, path: Path) -> None:
        try:
            parcel = self.spool.read(path)
        except WireError as error:
            logger.error("rushes: %s is set aside: %s", self.spool.set_aside(path), error)
            parcel = None
        if parcel is not None:
            if self._cursor is None:
                self._cursor = self._client.results_end(self.run.name)
            self._client.hand_over(parcel)
            self._expect(parcel)
            self.spool.remove(path)
        self._unsent.discard(path)

    def _expect(self, parcel: Parcel) -> None:
        """Note whose results are to come; one that was made before (same weights, same prompt) is here already."""
        for job in parcel.jobs:
            record = self._client.get(job.id)
            if record.result is not None:
                self._results.append(record.result)
            else:
                self.expected.add(job.id)

    def _collect(self) -> None:
        self._next_results = time.monotonic() + RESULTS_EVERY_S
        if self._cursor is None:
            return
        try:
            found, self._cursor = self._client.results(self.run.name, self._cursor)
        except QueueUnavailable:
            return  # the next turn asks again; hand-offs report the outage
        self._results.extend(found)
        self.expected.difference_update(result.id for result in found)


def why_not(error: Exception) -> JobError:
    """The reason for the record when the weights of a step could not be had."""
    if isinstance(error, RushesError):
        return JobError(code=error.code, message=str(error))
    return JobError(code=CheckpointError.code, message=f"the weights could not be saved: {error!r}")


_open: weakref.WeakSet[Outbox] = weakref.WeakSet()


def _mark_forked() -> None:
    """In a forked child: the thread and the connections were the parent's; `put` starts anew."""
    for outbox in list(_open):
        outbox._forked = True  # pyright: ignore[reportPrivateUsage]


os.register_at_fork(after_in_child=_mark_forked)


@atexit.register
def _flush_all() -> None:
    for outbox in list(_open):
        if not outbox.close():
            logger.warning("rushes: hand-offs wait in %s for the next run", outbox.spool.directory)
