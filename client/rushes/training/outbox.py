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
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from rushes._files import TEMPORARY
from rushes._paths import SNAPSHOT_DIR, SPOOL_DIR
from rushes._platform import WINDOWS
from rushes.checkpoints.snapshots import release
from rushes.checkpoints.staging import snapshots_of, uploaded
from rushes.checkpoints.store import store_of
from rushes.checkpoints.weights import OpenWeights, remove
from rushes.client.client import Client
from rushes.errors import QueueUnavailable, RushesError, StagingError, WireError
from rushes.prompts.files import PromptLine
from rushes.submission.build import Run
from rushes.submission.spool import Spool, Submission
from rushes.submission.submission_builder import SubmissionBuilder
from rushes.training.handoffs import HandoffJournal
from rushes.wire.results import JobState, SampleResult

logger = logging.getLogger("rushes")


class HandOff(NamedTuple):
    """One call of `submit`. `weights` are None for the base model, and an error if they could not be secured."""

    step: int
    epoch: int | None
    weights: OpenWeights | Exception | None


POLL_S = 0.1
FLUSH_POLL_S = 0.005
RESULTS_EVERY_S = 1.0
FIRST_RETRY_S = 0.5
LAST_RETRY_S = 15.0
ABANDONED_S = 24 * 3600
"""Age at which a snapshot that was never completed is taken for abandoned."""

UNNEEDED_S = 3600.0
"""Age from which a snapshot without samples is removed; younger ones may be on their way to Redis."""

RELEASE_EVERY_S = 600.0

RECOUNT_EVERY_S = 30.0

EXIT_FLUSH_S = 5.0
"""How long a process that ends waits for its hand-offs to reach Redis or, failing that, the spool."""


class Outbox:
    """Hands submissions over in the background, whatever Redis, the disk or the prompt file do.

    Args:
        run: what all its samples share.
        prompts: reads the prompt file anew for each submission.
        url: Redis URL, see `Client`.
        lines: what the file held before training, for when it breaks.
    """

    def __init__(
        self,
        run: Run,
        prompts: Callable[[], Iterable[PromptLine]],
        url: str | None = None,
        lines: Sequence[PromptLine] = (),
    ) -> None:
        self.run = run
        self.url = url
        self.spool = Spool(Path(run.output_dir) / SPOOL_DIR)
        self.notes = HandoffJournal(self.spool.directory, run.name, run.label)
        self.snapshots = Path(run.output_dir) / SNAPSHOT_DIR
        self._builder = SubmissionBuilder(run, prompts, lines)
        self._start()
        _open.add(self)

    def _start(self) -> None:
        """Set up for this process; a forked child begins with nothing of its parent's."""
        self._forked = False
        self._waiting: deque[HandOff] = deque()
        self._unsent: deque[tuple[Submission, Path | None]] = deque()
        """Not in Redis yet, with the place in the spool."""
        self._results: deque[SampleResult] = deque()
        self.expected: set[str] = set()
        """Ids of samples that were handed over and whose results have not come back."""
        self._hurry = threading.Event()
        self._stopping = False
        self._client = Client(self.url, retries=0)
        self._cursor: str | None = None
        self._retry_s = FIRST_RETRY_S
        self._next_try = 0.0
        self._next_results = 0.0
        self._next_release = 0.0
        self._next_recount = 0.0
        self._outage: type[RushesError] | None = None
        """Why nothing can be handed over, as far as it has been told."""
        self._failed_tries = 0
        flush_at_end_of_child()
        self._thread = threading.Thread(target=self._work, name="rushes-outbox", daemon=True)
        self._thread.start()

    def put(self, hand_off: HandOff) -> None:
        """Take a submission from the trainer's thread. Never blocks, never raises."""
        if self._forked:
            self._start()
        self._waiting.append(hand_off)

    def results(self) -> list[SampleResult]:
        """Results that have come back since the last call. Never blocks."""
        found: list[SampleResult] = []
        while self._results:
            found.append(self._results.popleft())
        return found

    def pending(self) -> int:
        """Samples whose results are to come, and hand-offs on their way; 0 while Redis is away."""
        return 0 if self._outage else len(self._waiting) + len(self._unsent) + len(self.expected)

    def flush(self, timeout: float | None = None, *, patient: bool = True) -> bool:
        """Wait until everything is in Redis; False when time ran out (the rest is in the spool).

        Args:
            timeout: seconds, None for ever.
            patient: with False, do not wait for a Redis that is away: the spool has everything.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        tries = self._failed_tries
        self._next_try = 0.0
        # Both are emptied last by the thread: a hand-off is in one of them until Redis has it.
        while self._waiting or self._unsent:
            self._hurry.set()
            spooled = not self._waiting and all(path is not None for _, path in list(self._unsent))
            failed = self._failed_tries - tries
            if not patient and spooled and failed > 1:
                return False
            if failed == 1:  # it may have begun before Redis came back, unlike the next
                self._next_try = 0.0
            if deadline is not None and time.monotonic() >= deadline:
                return False
            time.sleep(FLUSH_POLL_S)
        return True

    def forget(self) -> None:
        """Drop what belongs to the parent, in a child that was forked from it."""
        self._forked = True
        for parents in (self._waiting, self._unsent, self._results, self.expected):
            parents.clear()

    def close(self, timeout: float = EXIT_FLUSH_S) -> bool:
        """Hand over what is waiting and end the thread; False when something stays in the spool."""
        flushed = self.flush(timeout, patient=False)
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
        self._resume()
        while not self._stopping:
            self._hurry.wait(POLL_S)
            self._hurry.clear()
            try:
                self._turn()
            except Exception:
                # The thread is the only way out of the training process: it must outlive any surprise.
                logger.exception("rushes: an unforeseen error in the background; training goes on")
                self._next_try = time.monotonic() + LAST_RETRY_S  # one that stays must not fill the log

    def _sweep(self) -> None:
        """Remove unfinished files of processes that were killed."""
        for directory, pattern in ((self.snapshots, "*.pending*"), (self.spool.directory, TEMPORARY)):
            with contextlib.suppress(OSError):
                for path in directory.glob(pattern):
                    if age_s(path) > ABANDONED_S:
                        remove(path)  # a directory, if it was killed in the midst of saving an adapter

    def _resume(self) -> None:
        """Submit the hand-offs of killed processes of this run whose weights were secured but not spooled."""
        try:
            for path, note in self.notes.abandoned():
                logger.warning("rushes: step %d is handed over for a process that was killed meanwhile", note.step)
                self._take(HandOff(note.step, note.epoch, note.weights))
                path.unlink(missing_ok=True)
        except Exception:
            logger.exception("rushes: hand-offs of a process that was killed cannot be resumed; training goes on")

    def _turn(self) -> None:
        while self._waiting:
            try:
                self._take(self._waiting[0])
            finally:
                self._waiting.popleft()
        if time.monotonic() >= self._next_try:
            self._hand_over()
        if time.monotonic() >= self._next_results:
            self._collect()
        if time.monotonic() >= self._next_release:
            self._release_unneeded()

    def _take(self, hand_off: HandOff) -> None:
        """Make a submission of a hand-off and write it to the spool; it stays in memory if the disk refuses."""
        step, epoch, weights = hand_off
        notes: list[Path | None] = []
        submission = self._builder.build(
            step, epoch, weights, lambda pending, source: notes.append(self.notes.write(step, epoch, pending, source))
        )
        path = None
        try:
            path = self.spool.write(submission)
        except OSError as error:
            logger.error("rushes: step %d would not survive a crash of this process: %s", step, error)
        for note in filter(None, notes):
            with contextlib.suppress(OSError):
                note.unlink()
        self._unsent.append((submission, path))
        for refused in submission.refused:
            logger.error("rushes: prompt %d is not sampled: %s", refused.job.prompt_index, refused.error.message)

    def _hand_over(self) -> None:
        """Submit our own submissions to Redis, then those that other processes left in the spool."""
        try:
            while self._unsent:
                self._deliver(*self._unsent[0])
                self._unsent.popleft()
            if time.monotonic() >= self._next_results:
                self._replay()
        except (QueueUnavailable, StagingError) as error:
            if self._outage is not type(error):
                level = logging.ERROR if type(error) is StagingError else logging.WARNING  # it does not pass by itself
                logger.log(level, "rushes: %s. Samples wait in %s; training goes on", error, self.spool.directory)
            self._outage = type(error)
            self._failed_tries += 1
            self._next_try = time.monotonic() + self._retry_s
            self._retry_s = min(self._retry_s * 2, LAST_RETRY_S)
            return
        if self._outage:
            back = "Redis is" if self.run.staging is None else "Redis and the store are"
            logger.info("rushes: %s back; everything in the spool is handed over", back)
        self._outage = None
        self._retry_s = FIRST_RETRY_S

    def _replay(self) -> None:
        for path in self.spool.waiting():
            try:
                submission = self.spool.read(path)
            except WireError as error:
                logger.error("rushes: %s is set aside: %s", self.spool.set_aside(path), error)
            else:
                if submission is not None:
                    self._deliver(submission, path)

    def _deliver(self, submission: Submission, path: Path | None) -> None:
        """Hand a submission over, and expect its results; samples that are done already have theirs at once."""
        if self._cursor is None:
            self._cursor = self._client.results_end(self.run.name)
        states = self._client.hand_over(submission)
        for job, state in zip(submission.all, states, strict=True):
            if job.run != self.run.name:
                continue  # another run with the same output directory; its results are its own
            result = self._client.get(job.id).result if state is JobState.DONE else None
            if result is None:
                self.expected.add(job.id)
            else:
                self._results.append(result)
        if path is not None:
            self.spool.remove(path)
        self._release_staged(submission)

    def _release_staged(self, submission: Submission) -> None:
        """Remove the snapshot that was uploaded; later, if another hand-off may need it too."""
        if self.run.staging is None or len(self._unsent) > 1 or self._waiting or self.spool.waiting():
            return
        for path in uploaded(submission.jobs):
            with contextlib.suppress(OSError):
                release(path)

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
        if time.monotonic() >= self._next_recount:
            self._recount()

    def _recount(self) -> None:
        """Stop expecting samples that Redis has forgotten: it was restarted without its data, or emptied."""
        self._next_recount = time.monotonic() + RECOUNT_EVERY_S
        expected = list(self.expected)
        try:
            lost = self._client.forgotten(expected)
        except QueueUnavailable:
            return
        if lost:
            logger.error(
                "rushes: Redis has lost %d samples that were queued; submit their checkpoints again", len(lost)
            )
        self.expected.difference_update(lost)

    def _release_unneeded(self) -> None:
        """Remove snapshots that no sample needs: those of workers that were killed before they removed them."""
        self._next_release = time.monotonic() + RELEASE_EVERY_S
        self._resume()  # of another machine's process it cannot be told at once whether it is dead
        if self._unsent or self.spool.waiting():
            return  # their samples are not in Redis yet
        with contextlib.suppress(QueueUnavailable, OSError):
            old = [path for path in self.snapshots.glob("*.safetensors") if age_s(path) > UNNEEDED_S]
            for path in self._client.unneeded(old):
                release(path)
        if self.run.staging is None:
            return
        with contextlib.suppress(QueueUnavailable, StagingError):
            staged = snapshots_of(self.run.staging, self.run.name)
            for url in self._client.unneeded(list(store_of(self.run.staging).older(staged, UNNEEDED_S))):
                release(url)


_first_seen: dict[Path, float] = {}


def age_s(path: Path) -> float:
    """Seconds since a file was linked or written; on Windows, which keeps no such time, since this process saw it."""
    if WINDOWS:
        return time.monotonic() - _first_seen.setdefault(path, time.monotonic())
    return time.time() - path.stat().st_ctime


_open: weakref.WeakSet[Outbox] = weakref.WeakSet()


def _mark_forked() -> None:
    """In a forked child: the thread and the connections were the parent's; `put` starts anew."""
    for outbox in list(_open):
        outbox.forget()


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_mark_forked)


def flush_at_end_of_child() -> None:
    """`multiprocessing` ends its children without `atexit`; ask it to flush, if this is such a child."""
    process, util = (sys.modules.get(f"multiprocessing.{name}") for name in ("process", "util"))
    if process and util and process.parent_process() is not None:
        util.Finalize(None, _flush_all, exitpriority=1)


@atexit.register
def _flush_all() -> None:
    for outbox in list(_open):
        if not outbox.close():
            logger.warning("rushes: hand-offs wait in %s for the next run", outbox.spool.directory)
