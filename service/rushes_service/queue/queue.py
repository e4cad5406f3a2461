"""`Queue`: the operations of a worker on samples. `lua/` holds the transitions themselves."""

from __future__ import annotations

import contextlib
import json
import secrets
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import ValidationError
from redis.exceptions import NoScriptError, OutOfMemoryError

from rushes.checkpoints.snapshots import release
from rushes.errors import LeaseLost, WireError
from rushes.wire import keys
from rushes.wire.connection import connect, reachable
from rushes.wire.jobs import SampleJob
from rushes.wire.models import ModelSpec
from rushes.wire.results import JobError, JobState, SampleResult
from rushes.wire.scripts import script

PACKAGE = "rushes_service.queue"

Renewal = Literal["ok", "cancel", "lost"]


@dataclass(frozen=True)
class Reservation:
    """One sample that this worker owns until its lease expires.

    `deliveries` counts reservations that were not handed back (a crashed worker leaves it raised); `attempt` counts
    attempts that failed with a retryable error.
    """

    id: str
    payload: str
    lane: str
    entry: str
    deliveries: int
    attempt: int
    cancelling: bool
    superseded_by: int | None = None
    """Training step of a newer checkpoint, in runs that keep the latest only: this sample is to be skipped."""

    def job(self) -> SampleJob:
        """The job.

        Raises:
            WireError: this version cannot read it.
        """
        return SampleJob.decode(self.payload)


class Queue:
    """Samples for one worker.

    Args:
        url: Redis URL.
        worker: unique name of this worker.
        lease_s: seconds without renewal after which another worker may reserve the sample.
        patience_s: seconds after which a waiting sample of another model is served first, provided that this worker
            has served its own model for as long.
        only: predicate on the ModelSpec of a lane; None serves every model.
        locate: maps the submitter's path of a checkpoint snapshot to this machine's.

    Every method raises `QueueUnavailable` when Redis cannot be reached.
    """

    def __init__(
        self,
        url: str | None,
        *,
        worker: str,
        lease_s: float,
        patience_s: float = 600.0,
        only: Callable[[ModelSpec], bool] | None = None,
        locate: Callable[[str], str] = str,
    ) -> None:
        self.url = url
        self.worker = worker
        self.lease_ms = max(1, round(lease_s * 1000))
        self.only = only
        self._locate = locate
        self.redis = connect(url)
        self._request = secrets.token_hex(8)
        self._patience_s = patience_s
        self._warm: str | None = None
        self._warm_since = time.monotonic()
        self._wakeup = "0-0"
        self._served: dict[str, bool] = {}
        self._reserve = self.redis.register_script(script("owner", "undelivered", "reserve", package=PACKAGE))
        self._waiting = self.redis.register_script(script("undelivered", "waiting", package=PACKAGE))
        self._renew = self._owned("renew")
        self._finish = self._owned("finish")
        self._requeue = self._owned("requeue")

    def _owned(self, name: str) -> Any:
        return self.redis.register_script(script("owner", name, package=PACKAGE))

    def _reachable(self) -> AbstractContextManager[None]:
        return reachable(self.url)

    def reserve(self, warm: str | None = None, *, wait_s: float = 0.0) -> Reservation | None:
        """The next sample, or None when there is none.

        The request may be sent twice: one whose answer was lost on its way gets the same sample again.

        Args:
            warm: fingerprint of the loaded model; its lanes come first within each priority.
            wait_s: block for up to this long until one arrives.
        """
        with self._reachable():
            arguments = [self.worker, self.lease_ms, self._patience_ms(warm), self._request, *self._lanes(warm)]
            found = self._reserve(args=arguments)
            if not found and wait_s > 0:
                found = self._reserve_at_wakeup(arguments, wait_s)
                if found is None:  # a lane is new, or another worker was faster
                    return self.reserve(warm)
        if not found:
            return None
        self._request = secrets.token_hex(8)
        job_id, payload, lane, entry, deliveries, attempt, cancelling, newer = found
        counts = int(deliveries), int(attempt)
        return Reservation(job_id, payload, lane, entry, *counts, cancelling == "1", int(newer) if newer else None)

    def _patience_ms(self, warm: str | None) -> int:
        """Milliseconds that samples of other models may wait; 0 (no limit) for `patience_s` after a model was loaded.

        Without that pause, two full lanes would make a worker load a model for every sample.
        """
        if warm != self._warm:
            self._warm, self._warm_since = warm, time.monotonic()
        settled = time.monotonic() - self._warm_since >= self._patience_s
        return max(1, round(self._patience_s * 1000)) if settled else 0

    def _reserve_at_wakeup(self, arguments: list[Any], wait_s: float) -> list[Any] | None:
        """Block until a lane gets work, or for `wait_s`, and reserve; None if there was work but none for this worker.

        Both commands are sent together. The server runs the second when the first returns, which saves a round trip.
        If this process dies in between, the lease expires as any other.
        """
        pipeline = self.redis.pipeline(transaction=False)
        pipeline.xread({keys.BELL: self._wakeup}, block=max(1, round(wait_s * 1000)))
        # EVALSHA itself and not the script object: its pipeline asks for SCRIPT EXISTS first, another round trip.
        pipeline.execute_command("EVALSHA", self._reserve.sha, 0, *arguments)
        try:
            woken, found = pipeline.execute()
        except NoScriptError:  # the server has been restarted
            return None
        if woken:
            self._wakeup = woken[0][1][-1][0]
        return found if found or not woken else None

    def _lanes(self, warm: str | None) -> list[str]:
        """Lanes that this worker serves, in the order in which it tries them."""
        models: dict[str, str] = self.redis.hgetall(keys.LANES)
        lanes = [lane for lane, model in models.items() if self._serves(lane, model)]
        warm_lanes = {keys.lane(warm, priority) for priority in keys.PRIORITIES} if warm else set()

        def rank(lane: str) -> tuple[int, bool, str]:
            priority = keys.PRIORITIES.index(lane.rsplit(":", 1)[-1])
            return priority, lane not in warm_lanes, lane

        return sorted(lanes, key=rank)

    def _serves(self, lane: str, model: str) -> bool:
        if self.only is None:
            return True
        if lane not in self._served:
            try:
                self._served[lane] = self.only(ModelSpec.model_validate_json(model))
            except ValidationError:  # written by another version: leave it to other workers
                self._served[lane] = False
        return self._served[lane]

    def waiting(self, model: str, most: int) -> list[SampleJob]:
        """Samples that wait for the model of this fingerprint, first come first; none is reserved.

        Samples of another version that this one cannot read are left out.
        """
        lanes = [keys.lane(model, priority) for priority in keys.PRIORITIES]
        with self._reachable():
            payloads = self._waiting(args=[most, *lanes])
        found = []
        for payload in payloads:
            with contextlib.suppress(WireError):
                found.append(SampleJob.decode(payload))
        return found

    def retries_waiting(self) -> int:
        """Samples that wait for another attempt."""
        with self._reachable():
            return self.redis.zcard(keys.DELAYED)

    def renew(self, reservation: Reservation, run: str, stage: str, step: int, total: int, *, news: bool) -> Renewal:
        """Extend the lease of a sample and report its progress.

        Returns:
            "ok"; "cancel" if it is to be cancelled; "lost" if another worker owns it.
        """
        arguments = [
            reservation.id,
            reservation.lane,
            reservation.entry,
            self.worker,
            run,
            stage,
            step,
            total,
            "1" if news else "",
        ]
        with self._reachable():
            return self._renew(args=arguments)

    def finish(self, reservation: Reservation, state: JobState, result: SampleResult | None) -> None:
        """End a sample, and remove its checkpoint snapshot if no other sample needs it.

        Raises:
            LeaseLost: another worker owns it; nothing was changed.
        """
        encoded = result.encode() if result else "{}"
        with self._reachable():
            owned, *rest = self._finish(
                args=[reservation.id, reservation.lane, reservation.entry, self.worker, state.value, encoded]
            )
        if not owned:
            raise LeaseLost(f"sample {reservation.id} belongs to another worker now")
        if rest[0]:
            release(self._locate(rest[0]))

    def add_scores(self, job_id: str, scores: dict[str, float], warnings: list[str]) -> bool:
        """Write scores into the result of a sample that is done; False if it is not, or not any more."""
        key = keys.job(job_id)

        def change(pipeline: Any) -> bool:
            state, text = pipeline.hmget(key, "state", "result")
            pipeline.multi()
            if state != JobState.DONE.value or not text:
                return False
            result = SampleResult.decode(text)
            kept = (*result.warnings, *warnings)
            pipeline.hset(key, "result", result.model_copy(update={"scores": scores, "warnings": kept}).encode())
            return True

        with self._reachable():
            return bool(self.redis.transaction(change, key, value_from_callable=True))

    def publish(self, kind: str, job_id: str, run: str, data: dict[str, Any]) -> None:
        """Add an event that is no transition of a sample to the stream."""
        event: Any = {"type": kind, "id": job_id, "run": run, "data": json.dumps(data)}
        with self._reachable():
            self.redis.xadd(keys.EVENTS, event, maxlen=keys.EVENTS_MAXLEN, approximate=True)

    def retry_later(self, reservation: Reservation, run: str, error: JobError, delay_s: float) -> None:
        """Queue a sample that failed with a retryable error again, to be attempted after `delay_s`.

        Raises:
            LeaseLost: another worker owns it; nothing was changed.
        """
        self._give_back(reservation, run, "retry", delay_s, error.model_dump(mode="json"))

    def hand_back(self, reservation: Reservation, run: str) -> None:
        """Return an unfinished sample to its lane as if it had not been reserved.

        Raises:
            LeaseLost: another worker owns it; nothing was changed.
        """
        self._give_back(reservation, run, "handed_back", 0.0, {"worker": self.worker})

    def _give_back(self, reservation: Reservation, run: str, kind: str, delay_s: float, data: dict[str, Any]) -> None:
        arguments = [
            reservation.id,
            reservation.lane,
            reservation.entry,
            self.worker,
            run,
            kind,
            delay_s,
            json.dumps(data),
        ]
        with self._reachable():
            if not self._requeue(args=arguments):
                raise LeaseLost(f"sample {reservation.id} belongs to another worker now")

    def bury(self, reservation: Reservation, reason: str) -> None:
        """End a sample as dead; its payload is kept, and `rushes jobs retry` queues it again.

        Raises:
            LeaseLost: another worker owns it; nothing was changed.
        """
        try:
            job = reservation.job()
        except WireError:
            self.finish(reservation, JobState.DEAD, None)
            return
        error = JobError(code="dead", message=reason)
        self.finish(reservation, JobState.DEAD, SampleResult.of(job, JobState.DEAD, error=error, worker=self.worker))

    def announce(self, info: dict[str, str]) -> str | None:
        """Publish what this worker is doing; it expires after `keys.WORKER_TTL_S`.

        Returns:
            The standing order to this worker, "pause" or "drain", if there is one.
        """
        with self._reachable():
            pipeline = self.redis.pipeline(transaction=True)
            pipeline.delete(keys.worker(self.worker))
            pipeline.hset(keys.worker(self.worker), mapping=info)
            pipeline.expire(keys.worker(self.worker), keys.WORKER_TTL_S)
            seconds, _ = self.redis.time()
            pipeline.zadd(keys.WORKERS, {self.worker: seconds})
            pipeline.zremrangebyscore(keys.WORKERS, "-inf", seconds - keys.WORKER_TTL_S)
            # A full server refuses these writes but not those that end samples: the worker goes on, unlisted.
            with contextlib.suppress(OutOfMemoryError):
                pipeline.execute()
            return self.redis.getex(keys.order(self.worker), ex=keys.ORDER_TTL_S)

    def leave(self) -> None:
        """Remove this worker from the list."""
        with self._reachable():
            pipeline = self.redis.pipeline(transaction=True)
            pipeline.delete(keys.worker(self.worker), keys.order(self.worker))
            pipeline.zrem(keys.WORKERS, self.worker)
            pipeline.execute()
