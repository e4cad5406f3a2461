"""`Client` on a real server: submit, list, wait, cancel, retry, results."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from client_support import AWAY, work
from queue_support import MODEL, make_job
from rushes import Client
from rushes._paths import SNAPSHOT_DIR
from rushes.errors import InputError, JobNotFound, QueueUnavailable, SampleFailed, WaitTimeout
from rushes.submission.build import Refused
from rushes.submission.spool import Submission
from rushes.wire import keys
from rushes.wire.jobs import Checkpoint
from rushes.wire.results import JobError, JobRecord, JobState

LANE = keys.lane(MODEL.fingerprint, "training")
MISSPELT = JobError(code="prompt", message="misspelt")


def refused(index: int = 9, checkpoint: Checkpoint | None = None) -> Submission:
    return Submission([], [Refused(make_job(index=index, checkpoint=checkpoint), MISSPELT)])


def snapshot(directory: Path) -> Checkpoint:
    path = directory / SNAPSHOT_DIR / "f.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return Checkpoint(path=str(path), fingerprint="f", snapshot=True)


def test_submitting_twice_makes_one_sample(client: Client) -> None:
    first = client.submit([make_job(index=0), make_job(index=1)])
    assert client.submit([make_job(index=0), make_job(index=1)]) == first
    assert client.redis.xlen(LANE) == 2
    assert client.ids() == first


def test_a_sample_that_is_done_is_left_as_it_is_and_one_that_failed_is_queued_again(
    client: Client, redis_url: str
) -> None:
    client.submit([make_job(index=0)])
    work(redis_url)
    assert client.hand_over(Submission([make_job(index=0)])) == [JobState.DONE]
    client.submit([make_job(index=1)])
    work(redis_url, JobState.FAILED)
    assert client.hand_over(Submission([make_job(index=1)])) == [JobState.QUEUED]
    assert client.get(make_job(index=1).id).result is None


def test_a_queued_sample_that_is_cancelled_is_never_made(client: Client, redis_url: str) -> None:
    [job_id] = client.submit([make_job()])
    assert client.cancel(job_id) is JobState.CANCELLED
    assert client.cancel(job_id) is JobState.CANCELLED
    assert work(redis_url) == []
    record = client.get(job_id)
    assert record.result is not None
    assert record.result.error == JobError(code="cancelled", message="cancelled before it ran")


def test_a_sample_that_is_done_cannot_be_cancelled(client: Client, redis_url: str) -> None:
    [job_id] = client.submit([make_job()])
    work(redis_url)
    assert client.cancel(job_id) is JobState.DONE


def test_an_ended_sample_is_queued_again_by_retry(client: Client, redis_url: str) -> None:
    [job_id] = client.submit([make_job()])
    work(redis_url, JobState.FAILED)
    client.retry(job_id)
    client.retry(job_id)
    assert client.get(job_id).state is JobState.QUEUED
    assert len(work(redis_url)) == 1
    assert client.get(job_id).state is JobState.DONE


def test_a_sample_that_never_could_be_queued_cannot_be_retried(client: Client) -> None:
    client.hand_over(refused())
    with pytest.raises(InputError, match="mend its prompt line"):
        client.retry(make_job(index=9).id)


@pytest.mark.parametrize("method", ["get", "cancel", "retry"])
def test_an_unknown_id_is_not_found(client: Client, method: str) -> None:
    with pytest.raises(JobNotFound, match="no sample has the id 0123"):
        getattr(client, method)("0123")


def test_waiting_ends_with_the_last_sample_and_tells_of_each_change(client: Client, redis_url: str) -> None:
    ids = client.submit([make_job(index=index) for index in range(3)])
    seen: list[JobRecord] = []
    threading.Timer(0.1, work, [redis_url]).start()
    results = client.wait([*ids, ids[0]], timeout=60, on_change=seen.append)
    assert [result.id for result in results] == [*ids, ids[0]]
    assert [record.state for record in seen].count(JobState.DONE) == 3


def test_waiting_for_what_is_done_ends_at_once(client: Client, redis_url: str) -> None:
    ids = client.submit([make_job()])
    work(redis_url)
    assert [result.id for result in client.wait(ids, timeout=0)] == ids
    assert client.wait([]) == []


def test_waiting_for_a_sample_that_fails_says_which_and_why(client: Client, redis_url: str) -> None:
    ids = client.submit([make_job(index=0)])
    work(redis_url)
    ids += client.submit([make_job(index=1)])
    work(redis_url, JobState.FAILED)
    with pytest.raises(SampleFailed, match=f"1 of 2 samples made no picture; {ids[1]}: it was not to be") as caught:
        client.wait(ids, timeout=60)
    assert [result and result.state for result in caught.value.results] == [JobState.DONE, JobState.FAILED]


def test_waiting_gives_up_in_time(client: Client) -> None:
    ids = client.submit([make_job()])
    with pytest.raises(WaitTimeout, match=r"1 of 1 samples have not ended after 0\.05 s"):
        client.wait(ids, timeout=0.05)


def test_waiting_for_an_unknown_sample_is_an_error_at_once(client: Client) -> None:
    with pytest.raises(JobNotFound):
        client.wait(["0123"])


def test_samples_of_one_submission_are_listed_in_reverse_order_on_pages_that_miss_none(client: Client) -> None:
    ids = client.submit([make_job(index=index) for index in range(50)])
    listed: list[JobRecord] = []
    while page := client.list(limit=7, before=listed[-1].created_at if listed else None):
        listed += page
    assert [record.id for record in listed] == ids[::-1]
    assert len({record.created_at for record in listed}) == 50


def test_a_rare_state_is_found_behind_many_others(client: Client, redis_url: str) -> None:
    [rare] = client.submit([make_job(index=1000)])
    work(redis_url)
    client.submit([make_job(index=index) for index in range(450)])
    assert [record.id for record in client.list(state="done")] == [rare]
    assert len(client.list(limit=1000)) == 451
    assert client.list(limit=0) == []


def test_listing_by_run_and_state(client: Client, redis_url: str) -> None:
    client.submit([make_job(run="a"), make_job(run="a", index=1)])
    client.submit([make_job(run="b")])
    assert client.runs() == ["b", "a"]
    assert [record.run for record in client.list(run="a")] == ["a", "a"]
    assert client.list(run="nobody") == []
    work(redis_url)
    assert len(client.list(run="b", state=JobState.DONE)) == 1
    assert client.list(state="queued") == []
    with pytest.raises(InputError, match="no state 'finished'; there are: queued, running, done"):
        client.list(state="finished")


def test_results_come_in_the_order_in_which_samples_ended_behind_a_cursor(client: Client, redis_url: str) -> None:
    assert client.results("run") == ([], "0-0")
    client.hand_over(refused())
    client.submit([make_job(index=0), make_job(index=1), make_job(run="other")])
    work(redis_url)
    found, cursor = client.results("run")
    assert [result.prompt_index for result in found] == [9, 0, 1]
    assert found[0].error == MISSPELT
    assert client.results("run", cursor) == ([], cursor)
    assert client.results_end("run") == cursor
    first, cursor = client.results("run", limit=1)
    second, _ = client.results("run", cursor, limit=1)
    assert [result.prompt_index for result in first + second] == [9, 0]


def test_a_result_that_cannot_be_read_is_the_end_of_its_sample_all_the_same(client: Client, redis_url: str) -> None:
    [job_id] = client.submit([make_job()])
    work(redis_url)
    client.redis.hset(keys.job(job_id), "result", '{"of": "another version"}')
    [result], _ = client.results("run")
    assert (result.id, result.state) == (job_id, JobState.DONE)
    assert result.error is not None
    assert result.error.code == "wire"
    assert len(client.wait([job_id], timeout=60)) == 1


def test_a_payload_that_cannot_be_read_is_kept_as_it_is(client: Client) -> None:
    [job_id] = client.submit([make_job()])
    client.redis.hset(keys.job(job_id), "payload", '{"version": 2}')
    record = client.get(job_id)
    assert (record.job, record.raw) == (None, '{"version": 2}')
    assert client.cancel(job_id) is JobState.CANCELLED


def test_a_snapshot_stays_until_its_last_sample_has_ended(client: Client, redis_url: str, tmp_path: Path) -> None:
    kept = snapshot(tmp_path)
    client.submit([make_job(index=index, checkpoint=kept) for index in range(2)])
    client.cancel(make_job(index=0, checkpoint=kept).id)
    assert Path(kept.path).exists()
    work(redis_url)
    assert not Path(kept.path).exists()


def test_a_snapshot_that_no_sample_needs_is_removed(client: Client, redis_url: str, tmp_path: Path) -> None:
    path = tmp_path / SNAPSHOT_DIR / "f.safetensors"
    client.hand_over(refused(checkpoint=snapshot(tmp_path)))
    assert not path.exists()
    client.submit([make_job(checkpoint=snapshot(tmp_path))])
    work(redis_url)
    client.submit([make_job(checkpoint=snapshot(tmp_path))])
    assert not path.exists()


@pytest.mark.parametrize("call", [lambda c: c.ping(), lambda c: c.submit([make_job()]), lambda c: c.list()])
def test_without_redis_every_call_says_where_it_looked(call: object) -> None:
    assert callable(call)
    client = Client("redis://user:secret@127.0.0.1:1/0", retries=0)
    with pytest.raises(QueueUnavailable, match=r"redis://user:\*\*\*@127\.0\.0\.1:1/0 cannot be reached.*rushes up"):
        call(client)


def test_the_address_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch, redis_url: str) -> None:
    monkeypatch.setenv("RUSHES_REDIS_URL", AWAY)
    with pytest.raises(QueueUnavailable):
        Client(retries=0).ping()
    Client(redis_url).ping()
