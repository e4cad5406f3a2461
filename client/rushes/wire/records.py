"""Conversion between the wire types and the hashes that the scripts keep in Redis."""

from __future__ import annotations

from collections.abc import Sequence

from rushes.errors import SampleFailed, WireError
from rushes.wire import keys
from rushes.wire.jobs import SampleJob
from rushes.wire.results import JobError, JobRecord, JobState, SampleResult


def submit_arguments(job: SampleJob, result: SampleResult | None = None) -> list[str]:
    """Arguments of submit.lua."""
    lane = keys.lane(job.model.fingerprint, job.priority)
    latest = "1" if job.keep == "latest" else ""
    payload = [job.id, job.run, lane, job.model.encode(), job.encode(), snapshot_of(job)]
    return [*payload, str(job.step), latest, f"{job.submitted_at:.6f}", result.encode() if result else ""]


def cancelled(record: JobRecord) -> str:
    """The result, as JSON, of a sample that is cancelled before it runs."""
    error = JobError(code="cancelled", message="cancelled before it ran")
    return SampleResult.of(record.job, JobState.CANCELLED, error=error).encode() if record.job else "{}"


def snapshot_of(job: SampleJob) -> str:
    """Path of the checkpoint snapshot that a job needs, or nothing."""
    return job.checkpoint.path if job.checkpoint and job.checkpoint.snapshot else ""


def read_record(job_id: str, fields: dict[str, str]) -> JobRecord:
    """A record from the fields of its hash."""
    raw = fields.get("payload", "")
    try:
        job = SampleJob.decode(raw)
    except WireError:
        job = None
    state = JobState(fields["state"])
    try:
        result = SampleResult.decode(fields["result"]) if "result" in fields else None
    except WireError as error:
        # The worker could not read the job, or wrote a result of another version; a client that waits for the sample
        # must be told of its end all the same.
        reason = JobError(code=error.code, message=f"{state.value}, but without a result that this version can read")
        result = SampleResult.of(job, state, error=reason) if job else None
    return JobRecord(
        id=job_id,
        run=fields.get("run", ""),
        job=job,
        raw=None if job else raw,
        state=state,
        attempt=int(fields.get("attempt", 0)),
        worker=fields.get("worker"),
        stage=fields.get("stage") or None,
        step=int(fields.get("step", 0)),
        total=int(fields.get("total", 0)),
        created_at=float(fields.get("created_at", 0)),
        started_at=float(fields["started_at"]) if "started_at" in fields else None,
        finished_at=float(fields["finished_at"]) if "finished_at" in fields else None,
        cancelling=fields.get("cancelling") == "1",
        result=result,
    )


def finished(records: Sequence[JobRecord]) -> list[SampleResult]:
    """Results of ended samples; raises `SampleFailed` if one has no picture."""
    results = [record.result for record in records]
    failures = [record for record in records if record.state is not JobState.DONE]
    if failures:
        first = failures[0]
        reason = first.result.error.message if first.result and first.result.error else first.state.value
        raise SampleFailed(f"{len(failures)} of {len(records)} samples made no picture; {first.id}: {reason}", results)
    return [result for result in results if result is not None]
