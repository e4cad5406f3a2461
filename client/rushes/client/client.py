"""`Client`: hand samples over, look at them, wait for them, cancel them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, TypeVar

from rushes._files import make_output_directory
from rushes.checkpoints.snapshots import release
from rushes.checkpoints.staging import stage
from rushes.errors import InputError, JobNotFound, WaitTimeout
from rushes.submission.build import Refused
from rushes.submission.spool import Submission
from rushes.wire import keys
from rushes.wire.connection import BLOCK_MS, DEFAULT_URL, URL_VARIABLE, connect, reachable
from rushes.wire.jobs import SampleJob
from rushes.wire.records import cancelled, finished, read_record, submit_arguments
from rushes.wire.results import JobError, JobRecord, JobState, SampleResult
from rushes.wire.scripts import script

__all__ = ["DEFAULT_URL", "URL_VARIABLE", "Client", "WorkerInfo"]

PAGE = 200
"""Records read at a time."""

PIECE = 1000
"""Samples per script call, so that one call blocks Redis for a few milliseconds at most."""

LOOK_S = 2.0
"""Seconds between two checks of every sample that is waited for; in between, only those with new events are read."""

Snapshot = TypeVar("Snapshot", str, Path)

STATES = tuple(state.value for state in JobState)


class Client:
    """A connection to the queue. Safe to use from several threads; opens nothing until it is used.

    Args:
        url: Redis URL; else `RUSHES_REDIS_URL`, else a server on this machine.
        make_directories: whether `submit` makes output directories that are not there. Not for a process that submits
            in another's stead, and does not know whether what it would make is what the submitter means.

    Every method raises `QueueUnavailable` when Redis cannot be reached.
    """

    def __init__(self, url: str | None = None, *, retries: int = 2, make_directories: bool = True) -> None:
        self.url = url
        self._make_directories = make_directories
        self.redis = connect(url, retries=retries)
        self._submit = self.redis.register_script(script("submit"))
        self._cancel = self.redis.register_script(script("cancel"))
        self._retry = self.redis.register_script(script("retry"))

    def _reachable(self) -> AbstractContextManager[None]:
        return reachable(self.url)

    def ping(self) -> None:
        """Raise `QueueUnavailable` unless Redis answers."""
        with self._reachable():
            self.redis.ping()

    def submit(self, jobs: Sequence[SampleJob]) -> list[str]:
        """Queue samples; returns their ids. One that is queued, running or done already is left as it is.

        Output directories that are not there are made: workers make only what lies in them.
        """
        for directory in {job.output_dir for job in jobs if self._make_directories}:
            make_output_directory(directory)
        self.hand_over(Submission(jobs))
        return [job.id for job in jobs]

    def hand_over(self, submission: Submission) -> list[JobState]:
        """Queue a submission's samples, and record those that were refused as failed; all of it or nothing.

        Returns:
            The state of each of `submission.all` afterwards; `done` for one that was done before. A checkpoint snapshot
            that none of them needs is removed.

        Raises:
            StagingError: files cannot be uploaded to where the workers are to find them; nothing is queued.
        """
        jobs, lost = stage(submission.jobs)
        gone = [Refused(job, JobError(code=error.code, message=str(error))) for job, error in lost]
        arguments = [part for job in jobs for part in submit_arguments(job)]
        for refused in [*gone, *submission.refused]:
            result = SampleResult.of(refused.job, JobState.FAILED, error=refused.error)
            arguments += submit_arguments(refused.job, result)
        if not arguments:
            return []
        # One script, not a transaction of several: before each of those redis-py asks whether the script is known.
        with self._reachable():
            states, unneeded = self._submit(args=arguments)
        for path in set(unneeded):
            release(path)
        queued = [*jobs, *(refused.job for refused in [*gone, *submission.refused])]
        by_id = {job.id: JobState(state) for job, state in zip(queued, states, strict=True)}
        # Earlier samples of the same checkpoint may have ended, and taken it with them, while these were on their way.
        stage(job for job in submission.jobs if by_id[job.id] is JobState.QUEUED)
        return [by_id[job.id] for job in submission.all]

    def get(self, job_id: str) -> JobRecord:
        """The record of one sample.

        Raises:
            JobNotFound: unknown, or its record has expired.
        """
        return self._found([job_id])[job_id]

    def _found(self, job_ids: Sequence[str]) -> dict[str, JobRecord]:
        records = self._records(job_ids)
        for job_id in job_ids:
            if job_id not in records:
                kept = f"records are kept for {keys.RECORD_TTL_S // 86400} days"
                raise JobNotFound(f"no sample has the id {job_id} ({kept}); see `rushes jobs list`")
        return records

    def list(
        self,
        *,
        run: str | None = None,
        state: JobState | str | None = None,
        limit: int = 100,
        before: float | None = None,
    ) -> list[JobRecord]:
        """Records, newest first; `before` is the `created_at` of the last one of the page before.

        Every record is looked at if need be: there is no index by state. No two records have the same `created_at`, so
        no page leaves one out or shows one twice.

        Raises:
            InputError: there is no such state.
        """
        if state is not None and state not in STATES:
            raise InputError(f"there is no state {state!r}; there are: {', '.join(STATES)}")
        found: list[JobRecord] = []
        states = STATES if state is None else (JobState(state).value,)
        # Reading a record costs more than finding it: no more than are asked for.
        size = max(1, min(PAGE, limit))
        for ids in self.pieces("in_states", run, *states, before=before, size=PIECE if state else size):
            for start in range(0, len(ids), size):
                records = self._records(ids[start : start + size]).values()
                # One may have gone on to another state meanwhile.
                found += [record for record in records if state is None or record.state == state]
                if len(found) >= limit:
                    return found[: max(0, limit)]
        return found

    def pieces(
        self, name: str, run: str | None, *arguments: str, before: float | None = None, size: int = PIECE
    ) -> Iterator[Any]:
        """Answers of a script that is called for every sample (of a run), a piece at a time, newest first.

        Other commands run between the calls. Samples that are submitted meanwhile are left out.

        Args:
            name: of a script that takes an index, the highest time, how many samples to look at, and `arguments`.
            before: only samples that were created earlier.
            size: samples to a piece.
        """
        look = self.redis.register_script(script(name))
        index = keys.INDEX if run is None else keys.run(run)
        highest, looked_at = "+inf" if before is None else f"({before:.6f}", size
        while looked_at == size:
            with self._reachable():
                looked_at, last, answer = look(args=[index, highest, size, *arguments])
            yield answer
            highest = f"({last}"  # no two samples have the same time, so no piece leaves one out

    def _records(self, job_ids: Sequence[str]) -> dict[str, JobRecord]:
        """Records by id, in the order given, those that exist."""
        with self._reachable():
            pipeline = self.redis.pipeline(transaction=False)
            for job_id in job_ids:
                pipeline.hgetall(keys.job(job_id))
            found: list[Any] = pipeline.execute()
        return {job_id: read_record(job_id, fields) for job_id, fields in zip(job_ids, found, strict=True) if fields}

    def records(self, job_ids: Sequence[str]) -> list[JobRecord]:
        """Records in the order given, those that exist; one round trip for all of them."""
        return list(self._records(job_ids).values())

    def unneeded(self, snapshots: Sequence[Snapshot]) -> list[Snapshot]:
        """Those checkpoint snapshots, here or in a store, that no open sample needs."""
        with self._reachable():
            pipeline = self.redis.pipeline(transaction=False)
            for path in snapshots:
                pipeline.exists(keys.snapshot(str(path)))
            needed: list[int] = pipeline.execute()
        return [path for path, count in zip(snapshots, needed, strict=True) if not count]

    def forgotten(self, job_ids: Sequence[str]) -> list[str]:
        """Those samples that have no record."""
        with self._reachable():
            pipeline = self.redis.pipeline(transaction=False)
            for job_id in job_ids:
                pipeline.exists(keys.job(job_id))
            counts: list[int] = pipeline.execute()
        return [job_id for job_id, count in zip(job_ids, counts, strict=True) if not count]

    def ids(self) -> list[str]:
        """Ids of all samples that have a record."""
        with self._reachable():
            found: Any = self.redis.zrange(keys.INDEX, 0, -1)
        return list(found)

    def runs(self) -> list[str]:
        """Names of runs, the one submitted to last first."""
        with self._reachable():
            names: Any = self.redis.zrevrange(keys.RUNS, 0, -1)
        return list(names)

    def workers(self) -> list[WorkerInfo]:
        """What each live worker is doing."""
        with self._reachable():
            names: Any = self.redis.zrange(keys.WORKERS, 0, -1)
            pipeline = self.redis.pipeline(transaction=False)
            for name in names:
                pipeline.hgetall(keys.worker(name))
            infos: list[Any] = pipeline.execute()
        return [{"name": name, **info} for name, info in zip(names, infos, strict=True) if info]

    def cancel(self, job_id: str) -> JobState:
        """Cancel a sample; returns its state afterwards. A running one stops at its next step.

        Raises:
            JobNotFound: unknown, or its record has expired.
        """
        record = self.get(job_id)
        with self._reachable():
            state, snapshot = self._cancel(args=[job_id, cancelled(record)])
        if not state:
            raise JobNotFound(f"no sample has the id {job_id}: its record has just expired")
        if snapshot:
            release(snapshot)
        return JobState(state)

    def cancel_records(self, records: Sequence[JobRecord]) -> list[str]:
        """Cancel many samples in one round trip; returns the ids of those that were still open."""
        if not records:
            return []
        with self._reachable():
            pipeline = self.redis.pipeline(transaction=False)
            for record in records:
                self._cancel(args=[record.id, cancelled(record)], client=pipeline)
            answers: list[Any] = pipeline.execute()
        for snapshot in {snapshot for _, snapshot in answers if snapshot}:
            release(snapshot)
        stopped = (JobState.RUNNING, JobState.CANCELLED)
        return [record.id for record, (state, _) in zip(records, answers, strict=True) if state in stopped]

    def retry(self, job_id: str) -> None:
        """Queue an ended sample again; one that is queued or running is left as it is.

        Raises:
            JobNotFound: unknown, or its record has expired.
            InputError: it failed before it was ever queued, so there is nothing to run.
        """
        with self._reachable():
            state = self._retry(args=[job_id])
        if not state:
            raise JobNotFound(f"no sample has the id {job_id}")
        if state == "never queued":
            raise InputError(f"{job_id} never could be queued: mend its prompt line and submit it again")

    def wait(
        self,
        job_ids: Sequence[str],
        *,
        timeout: float | None = None,
        on_change: Callable[[JobRecord], None] | None = None,
    ) -> list[SampleResult]:
        """Wait until every sample has ended; returns their results in the order given.

        Args:
            timeout: seconds, or None to wait for ever.
            on_change: called with each record whenever something happened to it.

        Raises:
            WaitTimeout: time is up.
            SampleFailed: one ended without a picture; the message says which and why.
            JobNotFound: one has no record.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        cursor = self._last_event()
        seen: dict[str, JobRecord] = {}
        open_ = list(dict.fromkeys(job_ids))
        changed = set(open_)
        next_look = 0.0
        while True:
            if time.monotonic() >= next_look:  # at all of them: events are told, but not kept for ever
                changed, next_look = set(open_), time.monotonic() + LOOK_S
            for job_id, record in self._found([job_id for job_id in open_ if job_id in changed]).items():
                if record != seen.get(job_id) and on_change:
                    on_change(record)
                seen[job_id] = record
            open_ = [job_id for job_id in open_ if not seen[job_id].state.terminal]
            if not open_:
                return finished([seen[job_id] for job_id in job_ids])
            left_s = None if deadline is None else deadline - time.monotonic()
            if left_s is not None and left_s <= 0:
                raise WaitTimeout(f"{len(open_)} of {len(job_ids)} samples have not ended after {timeout:g} s")
            cursor, changed = self._next_events(cursor, left_s)

    def results(self, run: str, after: str = "0-0", limit: int = PAGE) -> tuple[list[SampleResult], str]:
        """Results of a run in the order in which they ended, behind the cursor `after`; and the next cursor.

        Never blocks for longer than one round trip.
        """
        with self._reachable():
            entries: Any = self.redis.xrange(keys.results(run), min=f"({after}", max="+", count=limit)
        if not entries:
            return [], after
        records = self._records([fields["id"] for _, fields in entries])
        return [record.result for record in records.values() if record.result is not None], entries[-1][0]

    def results_end(self, run: str) -> str:
        """The cursor behind the newest result of a run."""
        return self._last(keys.results(run))

    def _last_event(self) -> str:
        return self._last(keys.EVENTS)

    def _last(self, stream: str) -> str:
        with self._reachable():
            newest: Any = self.redis.xrevrange(stream, count=1)
        return newest[0][0] if newest else "0-0"

    def _next_events(self, after: str, timeout_s: float | None = None) -> tuple[str, set[str]]:
        """Wait up to a second, or `timeout_s`, for events behind `after`; the newest's id, and the samples of all."""
        block = BLOCK_MS if timeout_s is None else max(1, min(BLOCK_MS, round(timeout_s * 1000)))
        with self._reachable():
            read: Any = self.redis.xread({keys.EVENTS: after}, block=block)
        if not read:
            return after, set()
        entries = read[0][1]
        return entries[-1][0], {fields["id"] for _, fields in entries}

    def close(self) -> None:
        """Close the connections."""
        self.redis.close()


WorkerInfo = dict[str, str]
"""`name`, `device`, `model`, `sample`, `state`, `since`, … of one worker."""
