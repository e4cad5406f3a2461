"""Transitions of the queue on a real server, each as a worker would meet it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from proxy_support import Proxy
from queue_support import MODEL, empty_safetensors, make_job
from rushes._paths import SNAPSHOT_DIR
from rushes.client.client import Client
from rushes.client.control import cancel_all, order, purge
from rushes.errors import LeaseLost, QueueError, QueueUnavailable
from rushes.wire import keys
from rushes.wire.connection import connect
from rushes.wire.jobs import Checkpoint
from rushes.wire.models import ModelSpec
from rushes.wire.results import JobError, JobState, SampleResult
from rushes_service.queue import Queue, Reservation
from support import wait_until

SHORT_LEASE_S = 0.05
LONG_LEASE_S = 60.0

MakeQueue = Callable[..., Queue]


@pytest.fixture
def make_queue(redis_url: str) -> MakeQueue:
    def make(worker: str = "a", lease_s: float = LONG_LEASE_S, **options: object) -> Queue:
        return Queue(redis_url, worker=worker, lease_s=lease_s, **options)  # type: ignore[arg-type]

    return make


def done(job_id: str, client: Client) -> SampleResult:
    job = client.get(job_id).job
    assert job is not None
    return SampleResult.of(job, JobState.DONE, path="/x.png")


def test_an_empty_queue_has_nothing_to_reserve(make_queue: MakeQueue) -> None:
    assert make_queue().reserve() is None


def test_samples_are_reserved_in_the_order_in_which_they_were_submitted(client: Client, make_queue: MakeQueue) -> None:
    ids = client.submit([make_job(index=index) for index in range(3)])
    queue = make_queue()
    taken = [queue.reserve() for _ in range(4)]
    assert [held and held.id for held in taken] == [*ids, None]


def test_a_reserved_sample_is_running_and_says_where(client: Client, make_queue: MakeQueue) -> None:
    [job_id] = client.submit([make_job()])
    held = make_queue("gpu0").reserve()
    record = client.get(job_id)
    assert held is not None
    assert held.job() == record.job
    assert (record.state, record.worker, held.deliveries) == (JobState.RUNNING, "gpu0", 1)


def test_finishing_ends_the_sample_and_empties_the_lane(client: Client, make_queue: MakeQueue) -> None:
    [job_id] = client.submit([make_job()])
    queue = make_queue()
    held = queue.reserve()
    assert held
    queue.finish(held, JobState.DONE, done(job_id, client))
    assert client.get(job_id).state is JobState.DONE
    assert client.redis.xlen(held.lane) == 0
    assert client.redis.xpending(held.lane, keys.GROUP)["pending"] == 0
    assert [result.path for result in client.results("run")[0]] == ["/x.png"]


def test_a_sample_whose_worker_died_is_reserved_again(client: Client, make_queue: MakeQueue) -> None:
    client.submit([make_job()])
    assert make_queue("dead", SHORT_LEASE_S).reserve()
    again = wait_until(make_queue("b", SHORT_LEASE_S).reserve, 5, "the lease to run out")
    assert again.deliveries == 2


def test_a_live_lease_is_not_taken_over(client: Client, make_queue: MakeQueue) -> None:
    client.submit([make_job()])
    assert make_queue("a").reserve()
    assert make_queue("b").reserve() is None


def test_a_stale_sample_is_found_behind_many_fresh_ones(client: Client, make_queue: MakeQueue) -> None:
    """XAUTOCLAIM looks at ten entries for each one it is asked for; a busy lane has more workers than that."""
    ids = client.submit([make_job(index=index) for index in range(40)])
    queue = make_queue("alive", 0.5)
    held = [queue.reserve() for _ in ids]
    last = held[-1]
    assert last is not None

    def only_the_last_is_stale() -> object:
        for one in held[:-1]:
            assert one is not None
            queue.renew(one, "run", "denoise", 1, 2, news=False)
        return make_queue("b", 0.5).reserve()

    taken = wait_until(only_the_last_is_stale, 10, "the last lease to run out")
    assert taken.id == last.id


def test_renewing_keeps_the_lease_and_is_no_delivery(client: Client, make_queue: MakeQueue) -> None:
    [job_id] = client.submit([make_job()])
    queue = make_queue("a", SHORT_LEASE_S)
    held = queue.reserve()
    assert held
    for step in range(20):
        assert queue.renew(held, "run", "denoise", step, 20, news=True) == "ok"
    [pending] = client.redis.xpending_range(held.lane, keys.GROUP, "-", "+", 1)
    assert pending["times_delivered"] == 1
    record = client.get(job_id)
    assert (record.stage, record.step, record.total) == ("denoise", 19, 20)


def test_a_worker_that_comes_back_late_can_change_nothing(client: Client, make_queue: MakeQueue) -> None:
    [job_id] = client.submit([make_job()])
    late = make_queue("late", SHORT_LEASE_S)
    held = late.reserve()
    assert held
    owner = make_queue("owner", SHORT_LEASE_S)
    taken = wait_until(owner.reserve, 5, "the lease to run out")

    assert late.renew(held, "run", "denoise", 1, 2, news=True) == "lost"
    with pytest.raises(LeaseLost):
        late.finish(held, JobState.DONE, done(job_id, client))
    with pytest.raises(LeaseLost):
        late.hand_back(held, "run")
    with pytest.raises(LeaseLost):
        late.retry_later(held, "run", JobError(code="x", message="y"), 0)
    with pytest.raises(LeaseLost):
        late.bury(held, "z")
    assert client.get(job_id).worker == "owner"

    owner.finish(taken, JobState.DONE, done(job_id, client))
    with pytest.raises(LeaseLost):
        late.finish(held, JobState.FAILED, None)
    assert client.get(job_id).state is JobState.DONE
    assert len(client.results("run")[0]) == 1


def test_an_entry_that_another_worker_claimed_is_lost_before_the_record_says_so(
    client: Client, make_queue: MakeQueue
) -> None:
    """A claim and the record are written apart when a worker of another version, or a person, claims."""
    [job_id] = client.submit([make_job()])
    late = make_queue("late")
    held = late.reserve()
    assert held
    client.redis.xclaim(held.lane, keys.GROUP, "other", 0, [held.entry])
    assert client.get(job_id).worker == "late"
    everything_is_lost(late, held, client)


@pytest.mark.parametrize(
    "record", [{"state": "queued"}, {"entry": "0-1"}, {"worker": "other"}], ids=lambda record: next(iter(record))
)
def test_a_sample_that_its_record_gives_to_another_is_lost_though_its_entry_is_pending_here(
    client: Client, make_queue: MakeQueue, record: dict[str, str]
) -> None:
    """It was queued again under another entry, or was reserved by another worker since."""
    [job_id] = client.submit([make_job()])
    late = make_queue("late")
    held = late.reserve()
    assert held
    client.redis.hset(keys.job(job_id), mapping=record)
    everything_is_lost(late, held, client)
    client.redis.delete(keys.job(job_id))


def everything_is_lost(late: Queue, held: Reservation, client: Client) -> None:
    """No script changes anything for `late`."""
    before = client.redis.hgetall(keys.job(held.id))
    assert late.renew(held, "run", "denoise", 1, 2, news=True) == "lost"
    for change in (
        lambda: late.finish(held, JobState.DONE, done(held.id, client)),
        lambda: late.hand_back(held, "run"),
        lambda: late.retry_later(held, "run", JobError(code="x", message="y"), 0),
        lambda: late.bury(held, "z"),
    ):
        with pytest.raises(LeaseLost):
            change()
    assert client.redis.hgetall(keys.job(held.id)) == before
    assert client.redis.xlen(held.lane) == 1


def test_a_sample_handed_back_is_next_for_another_worker_and_counts_as_no_delivery(
    client: Client, make_queue: MakeQueue
) -> None:
    [job_id] = client.submit([make_job()])
    queue = make_queue("leaving")
    held = queue.reserve()
    assert held
    queue.hand_back(held, "run")
    assert client.get(job_id).state is JobState.QUEUED
    again = make_queue("b").reserve()
    assert again
    assert (again.id, again.deliveries, again.attempt) == (job_id, 1, 0)


def test_a_failed_try_comes_back_after_its_delay_as_the_next_attempt(client: Client, make_queue: MakeQueue) -> None:
    [job_id] = client.submit([make_job()])
    queue = make_queue()
    held = queue.reserve()
    assert held
    queue.retry_later(held, "run", JobError(code="out_of_memory", message="no room", retryable=True), 0.2)
    assert client.get(job_id).state is JobState.QUEUED
    assert queue.reserve() is None
    again = wait_until(queue.reserve, 5, "the delay to pass")
    assert (again.id, again.attempt) == (job_id, 1)


def test_a_sample_waiting_for_its_next_attempt_can_be_cancelled(client: Client, make_queue: MakeQueue) -> None:
    [job_id] = client.submit([make_job()])
    queue = make_queue()
    held = queue.reserve()
    assert held
    queue.retry_later(held, "run", JobError(code="x", message="y"), 0.05)
    assert client.cancel(job_id) is JobState.CANCELLED
    client.submit([make_job(index=1)])
    other = wait_until(queue.reserve, 5, "the other sample")
    assert other.id != job_id
    assert queue.reserve() is None


def test_a_cancelled_queued_sample_is_never_reserved(client: Client, make_queue: MakeQueue) -> None:
    first, second = client.submit([make_job(index=0), make_job(index=1)])
    assert client.cancel(first) is JobState.CANCELLED
    held = make_queue().reserve()
    assert held and held.id == second
    assert client.get(first).state is JobState.CANCELLED


def test_a_running_sample_hears_of_its_cancel_when_it_renews(client: Client, make_queue: MakeQueue) -> None:
    [job_id] = client.submit([make_job()])
    queue = make_queue()
    held = queue.reserve()
    assert held
    assert client.cancel(job_id) is JobState.RUNNING
    assert queue.renew(held, "run", "denoise", 1, 2, news=False) == "cancel"
    assert client.get(job_id).cancelling


def test_a_cancel_outlives_the_worker_that_was_to_hear_it(client: Client, make_queue: MakeQueue) -> None:
    [job_id] = client.submit([make_job()])
    assert make_queue("dead", SHORT_LEASE_S).reserve()
    client.cancel(job_id)
    again = wait_until(make_queue("b", SHORT_LEASE_S).reserve, 5, "the lease to run out")
    assert again.cancelling


def test_retrying_an_ended_sample_starts_it_anew(client: Client, make_queue: MakeQueue) -> None:
    [job_id] = client.submit([make_job()])
    queue = make_queue()
    held = queue.reserve()
    assert held
    queue.bury(held, "it killed five workers")
    assert client.get(job_id).state is JobState.DEAD
    client.retry(job_id)
    again = queue.reserve()
    assert again and (again.id, again.deliveries, again.attempt) == (job_id, 1, 0)
    assert client.get(job_id).result is None


def test_interactive_samples_overtake_training_samples(client: Client, make_queue: MakeQueue) -> None:
    client.submit([make_job(index=0)])
    ad_hoc = make_job(index=1).model_copy(update={"priority": "interactive"})
    client.submit([ad_hoc])
    held = make_queue().reserve()
    assert held and held.id == ad_hoc.id


def test_a_worker_stays_with_the_model_it_has_loaded(client: Client, make_queue: MakeQueue) -> None:
    other = ModelSpec(architecture="wan2.1-t2v", model="/models/other")
    client.submit([make_job(index=0), make_job(index=1, model=other), make_job(index=2)])
    queue = make_queue()
    taken = [queue.reserve(other.fingerprint) for _ in range(3)]
    assert [held.job().prompt_index for held in taken if held] == [1, 0, 2]


def test_what_waits_for_a_model_is_seen_in_its_order_and_not_reserved(client: Client, make_queue: MakeQueue) -> None:
    other = ModelSpec(architecture="wan2.1-t2v", model="/models/other")
    first, second, third = (make_job(f"ball {index}", index=index) for index in range(3))
    urgent = make_job("now", index=3).model_copy(update={"priority": "interactive"})
    client.submit([first, second, third, make_job(model=other), urgent])
    client.cancel(second.id)
    queue = make_queue()
    assert [job.id for job in queue.waiting(MODEL.fingerprint, 9)] == [urgent.id, first.id, third.id]
    assert [job.id for job in queue.waiting(MODEL.fingerprint, 2)] == [urgent.id, first.id]
    reserved = [queue.reserve(MODEL.fingerprint) for _ in range(2)]
    assert [each and each.id for each in reserved] == [urgent.id, first.id]
    assert [job.id for job in queue.waiting(MODEL.fingerprint, 9)] == [third.id]
    assert make_queue("b").waiting("unknown", 9) == []


def test_a_pinned_worker_leaves_other_models_alone(client: Client, make_queue: MakeQueue) -> None:
    client.submit([make_job()])
    assert make_queue(only=lambda model: model.model == "/models/other").reserve() is None


def test_a_pinned_worker_leaves_models_of_another_version_alone(client: Client, make_queue: MakeQueue) -> None:
    [job_id] = client.submit([make_job()])
    client.redis.hset(keys.LANES, keys.lane("0" * 16, "interactive"), '{"architecture": "wan9", "colour": "red"}')
    held = make_queue(only=lambda model: model == MODEL).reserve()
    assert held and held.id == job_id


def test_a_payload_that_cannot_be_read_is_set_aside_and_kept(client: Client, make_queue: MakeQueue) -> None:
    [job_id] = client.submit([make_job()])
    client.redis.hset(keys.job(job_id), "payload", '{"version": 99}')
    queue = make_queue()
    held = queue.reserve()
    assert held
    queue.bury(held, "unreadable")
    record = client.get(job_id)
    assert (record.state, record.job, record.raw) == (JobState.DEAD, None, '{"version": 99}')


def test_a_snapshot_goes_with_the_last_sample_that_needs_it(
    client: Client, make_queue: MakeQueue, tmp_path: Path
) -> None:
    directory = tmp_path / SNAPSHOT_DIR
    directory.mkdir(parents=True)
    kept = empty_safetensors(directory / "abc.safetensors")
    checkpoint = Checkpoint(path=str(kept), fingerprint="abc", snapshot=True)
    first, second, third = client.submit([make_job(index=index, checkpoint=checkpoint) for index in range(3)])
    queue = make_queue()
    held = queue.reserve()
    assert held and held.id == first
    queue.finish(held, JobState.DONE, done(first, client))
    assert client.cancel(second) is JobState.CANCELLED
    assert kept.exists()
    held = queue.reserve()
    assert held and held.id == third
    queue.finish(held, JobState.FAILED, None)
    assert not kept.exists()


def test_a_snapshot_that_cannot_be_removed_ends_no_worker(
    client: Client, make_queue: MakeQueue, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stuck = tmp_path / SNAPSHOT_DIR / "abc.safetensors"
    stuck.mkdir(parents=True)  # as unremovable for root as a file on a read-only mount is
    client.submit([make_job(checkpoint=Checkpoint(path=str(stuck), fingerprint="abc", snapshot=True))])
    queue = make_queue()
    held = queue.reserve()
    assert held
    queue.finish(held, JobState.FAILED, None)
    assert client.get(held.id).state is JobState.FAILED
    assert "a checkpoint that no sample needs cannot be removed" in caplog.text


def test_a_checkpoint_that_is_no_snapshot_is_never_removed(
    client: Client, make_queue: MakeQueue, tmp_path: Path
) -> None:
    own = empty_safetensors(tmp_path / "lora.safetensors")
    client.submit([make_job(checkpoint=Checkpoint(path=str(own), fingerprint="abc"))])
    queue = make_queue()
    held = queue.reserve()
    assert held
    queue.finish(held, JobState.FAILED, None)
    assert own.exists()


def test_an_entry_whose_record_is_gone_is_dropped(client: Client, make_queue: MakeQueue) -> None:
    gone, kept = client.submit([make_job(index=0), make_job(index=1)])
    client.redis.delete(keys.job(gone))
    queue = make_queue()
    held = queue.reserve()
    assert held and held.id == kept
    assert queue.reserve() is None


def test_an_idle_worker_gets_the_sample_that_arrives(client: Client, make_queue: MakeQueue) -> None:
    queue = make_queue()
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(queue.reserve, wait_s=60)
        wait_until(lambda: client.redis.info("clients")["blocked_clients"], 30, "the worker to wait")
        [job_id] = client.submit([make_job(index=0)])
        held = waiting.result(30)
    assert held and held.id == job_id


def test_an_idle_worker_serves_a_model_it_has_not_heard_of(client: Client, make_queue: MakeQueue) -> None:
    queue = make_queue()
    client.submit([make_job(index=0)])
    assert queue.reserve()
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(lambda: queue.reserve(wait_s=60) or queue.reserve(wait_s=60))
        wait_until(lambda: client.redis.info("clients")["blocked_clients"], 30, "the worker to wait")
        [job_id] = client.submit(
            [make_job(index=1, model=ModelSpec(architecture="wan2.1-t2v", model="/models/another"))]
        )
        held = waiting.result(30)
    assert held and held.id == job_id


def test_waiting_survives_a_server_that_has_forgotten_the_scripts(client: Client, make_queue: MakeQueue) -> None:
    queue = make_queue()
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(queue.reserve, wait_s=60)
        wait_until(lambda: client.redis.info("clients")["blocked_clients"], 30, "the worker to wait")
        client.redis.script_flush()
        [job_id] = client.submit([make_job(index=0)])
        held = waiting.result(30)
    assert held and held.id == job_id


def test_workers_announce_themselves_and_leave(client: Client, make_queue: MakeQueue) -> None:
    queue = make_queue("gpu0")
    queue.announce({"state": "idle", "device": "cpu"})
    assert client.workers() == [{"name": "gpu0", "state": "idle", "device": "cpu"}]
    queue.leave()
    assert client.workers() == []


def test_every_transition_is_an_event(client: Client, make_queue: MakeQueue) -> None:
    [job_id] = client.submit([make_job()])
    queue = make_queue()
    held = queue.reserve()
    assert held
    queue.renew(held, "run", "denoise", 1, 4, news=True)
    queue.finish(held, JobState.DONE, done(job_id, client))
    events = [fields for _, fields in client.redis.xrange(keys.EVENTS)]
    assert [event["type"] for event in events] == ["queued", "started", "progress", "done"]
    assert {event["id"] for event in events} == {job_id}
    assert {event["run"] for event in events} == {"run"}


def submit_step(client: Client, step: int, keep: str = "latest", at: float = 1.7e9) -> str:
    [job_id] = client.submit([make_job(step=step).model_copy(update={"keep": keep, "submitted_at": at})])
    return job_id


def test_older_checkpoints_of_a_run_that_keeps_the_latest_are_superseded(client: Client, make_queue: MakeQueue) -> None:
    base, old, newest = (submit_step(client, step) for step in (0, 100, 200))
    queue = make_queue()
    taken = [held for held in (queue.reserve() for _ in range(3)) if held]
    assert [(held.id, held.superseded_by) for held in taken] == [(base, None), (old, 200), (newest, None)]


def test_a_superseded_sample_that_is_asked_for_again_is_made(client: Client, make_queue: MakeQueue) -> None:
    old, _ = (submit_step(client, step) for step in (100, 200))
    queue = make_queue()
    held = queue.reserve()
    assert held
    queue.finish(held, JobState.SUPERSEDED, SampleResult.of(held.job(), JobState.SUPERSEDED))
    client.retry(old)
    taken = [held for held in (queue.reserve(), queue.reserve()) if held]
    assert [held.superseded_by for held in taken] == [None, None]
    assert old in {held.id for held in taken}


def test_a_run_that_keeps_all_supersedes_nothing(client: Client, make_queue: MakeQueue) -> None:
    for step in (100, 200):
        submit_step(client, step, keep="all")
    queue = make_queue()
    assert [held.superseded_by for held in (queue.reserve(), queue.reserve()) if held] == [None, None]


def test_a_training_that_resumes_from_an_earlier_step_is_sampled(client: Client, make_queue: MakeQueue) -> None:
    submit_step(client, 500, at=1.7e9)
    resumed = submit_step(client, 300, at=1.7e9 + 1)
    queue = make_queue()
    first, second = queue.reserve(), queue.reserve()
    assert first and second
    assert (first.superseded_by, second.id, second.superseded_by) == (300, resumed, None)


def test_a_spool_that_is_replayed_late_does_not_supersede_newer_checkpoints(
    client: Client, make_queue: MakeQueue
) -> None:
    newest = submit_step(client, 300, at=1.7e9 + 60)
    late = [submit_step(client, step, at=1.7e9 + step / 100) for step in (100, 200)]
    queue = make_queue()
    taken = [held for held in (queue.reserve() for _ in range(3)) if held]
    assert [(held.id, held.superseded_by) for held in taken] == [(newest, None), (late[0], 300), (late[1], 300)]


def test_the_newest_checkpoint_of_an_older_version_is_still_the_newest(client: Client, make_queue: MakeQueue) -> None:
    old = submit_step(client, 100)
    client.redis.delete(keys.NEWEST_AT_PREFIX + "run")  # which version 0.1 does not write
    newest = submit_step(client, 200)
    queue = make_queue()
    assert [(held.id, held.superseded_by) for held in (queue.reserve(), queue.reserve()) if held] == [
        (old, 200),
        (newest, None),
    ]


@pytest.fixture
def proxy(redis_url: str) -> Iterator[Proxy]:
    """A network between a worker and Redis, which can lose answers."""
    with Proxy(urlsplit(redis_url).port or 0) as proxy:
        yield proxy


def test_a_reservation_whose_answer_is_lost_is_answered_again(client: Client, proxy: Proxy) -> None:
    ids = client.submit([make_job(index=index) for index in range(2)])
    queue = Queue(proxy.url, worker="a", lease_s=LONG_LEASE_S)
    proxy.lose_answer_to(b"EVALSHA")
    first = queue.reserve()
    assert first
    assert (first.id, first.deliveries) == (ids[0], 1)
    second = queue.reserve()
    assert second
    assert second.id == ids[1]
    queue.finish(first, JobState.DONE, done(first.id, client))


def test_a_reservation_is_answered_again_after_an_outage(client: Client, proxy: Proxy) -> None:
    [job_id] = client.submit([make_job()])
    queue = Queue(proxy.url, worker="a", lease_s=LONG_LEASE_S)
    queue.redis.close()
    queue.redis = connect(proxy.url, retries=0)
    queue._reserve.registered_client = queue.redis
    proxy.lose_answer_to(b"EVALSHA")
    with pytest.raises(QueueUnavailable):
        queue.reserve()
    held = queue.reserve(wait_s=0.05)
    assert held
    assert held.id == job_id


def test_another_worker_of_that_name_does_not_get_what_the_one_before_reserved(
    client: Client, make_queue: MakeQueue
) -> None:
    client.submit([make_job()])
    assert make_queue().reserve()
    assert make_queue().reserve() is None


def test_an_end_whose_answer_is_lost_is_no_lost_lease(client: Client, proxy: Proxy, tmp_path: Path) -> None:
    kept = tmp_path / SNAPSHOT_DIR / "abc.safetensors"
    kept.parent.mkdir(parents=True)
    empty_safetensors(kept)
    checkpoint = Checkpoint(path=str(kept), fingerprint="abc", snapshot=True)
    [job_id] = client.submit([make_job(checkpoint=checkpoint)])
    queue = Queue(proxy.url, worker="a", lease_s=LONG_LEASE_S)
    held = queue.reserve()
    assert held
    result = done(job_id, client)
    proxy.lose_answer_to(b"EVALSHA")
    queue.finish(held, JobState.DONE, result)
    assert client.get(job_id).state is JobState.DONE
    assert not kept.exists()
    with pytest.raises(LeaseLost):
        queue.finish(held, JobState.FAILED, None)


OTHER = ModelSpec(architecture="wan2.1-t2v", model="/models/other")


def test_a_sample_of_another_model_does_not_wait_for_ever(client: Client, make_queue: MakeQueue) -> None:
    """The warm lane is never empty here; the other one still gets its turn after the patience has run out."""
    queue = make_queue(patience_s=0.2)
    waiting = make_job(index=500, model=OTHER)
    client.submit([waiting])
    serial = iter(range(500))

    def next_model() -> bool:
        client.submit([make_job(index=next(serial))])
        held = queue.reserve(make_job().model.fingerprint)
        return held is not None and held.id == waiting.id

    wait_until(next_model, 10, "the other model's turn")


def test_two_full_lanes_do_not_make_a_worker_change_models_at_every_sample(
    client: Client, make_queue: MakeQueue
) -> None:
    client.submit([make_job(index=index, model=model) for index in range(10) for model in (OTHER, make_job().model)])
    queue = make_queue(patience_s=60.0)
    models = []
    warm = None
    while held := queue.reserve(warm):
        warm = held.job().model.fingerprint
        models.append(warm)
    changes = sum(1 for before, after in itertools.pairwise(models) if before != after)
    assert (len(models), changes) == (20, 1)


def test_orders_reach_the_worker_with_its_heartbeat(client: Client, make_queue: MakeQueue) -> None:
    queue = make_queue("box1-cuda0-17-ab")
    assert queue.announce({"state": "idle"}) is None
    assert order(client, ["box1"], "pause") == ["box1-cuda0-17-ab"]
    client.redis.expire(keys.order("box1-cuda0-17-ab"), 60)
    assert queue.announce({"state": "idle"}) == "pause"
    assert client.redis.ttl(keys.order("box1-cuda0-17-ab")) > 60  # it holds for as long as the worker lives
    order(client, ["box1-cuda0"], "resume")
    assert queue.announce({"state": "idle"}) is None
    with pytest.raises(QueueError, match="box2"):
        order(client, ["box2"], "drain")
    queue.leave()


def test_a_whole_run_or_submission_is_cancelled_at_once(client: Client, make_queue: MakeQueue) -> None:
    client.submit([make_job(index=index) for index in range(3)])
    [other] = client.submit([make_job(run="other")])
    held = make_queue().reserve()
    assert held
    assert len(cancel_all(client, run="run")) == 3
    states = [record.state for record in client.list(run="run")]
    assert sorted(states) == [JobState.CANCELLED, JobState.CANCELLED, JobState.RUNNING]
    assert client.get(held.id).cancelling
    submission = client.get(other).job.submission  # type: ignore[union-attr]
    assert cancel_all(client, submission=submission) == [other]


def test_no_run_is_too_long_to_be_listed_cancelled_or_purged(client: Client) -> None:
    oldest = client.submit([make_job(index=index) for index in range(2)])
    add_ended_records(client, "run", 50_000)
    assert [record.id for record in client.list(state="queued")] == oldest[::-1]
    assert [record.id for record in client.list(state="queued", limit=1)] == oldest[1:]
    assert sorted(cancel_all(client, run="run")) == sorted(oldest)
    assert purge(client, run="run") == 50_002
    assert client.ids() == []
    assert not client.redis.exists(keys.run("run"), keys.job(oldest[0]), keys.job("r1"), keys.job("r50000"))


def add_ended_records(client: Client, run: str, count: int) -> None:
    """Records as the scripts leave them, later than all there are, without a worker for each."""
    script = """
    for number = 1, ARGV[2] do
      local id, time = 'r' .. number, ARGV[3] + number / 1000
      redis.call('HSET', KEYS[1] .. id, 'state', 'done', 'run', ARGV[1], 'created_at', time, 'finished_at', 1)
      redis.call('ZADD', KEYS[2], time, id)
      redis.call('ZADD', KEYS[3], time, id)
    end"""
    later = client.list(limit=1)[0].created_at + 1
    client.redis.eval(script, 3, keys.JOB_PREFIX, keys.INDEX, keys.run(run), run, count, later)


def test_purging_forgets_ended_samples_only(client: Client, make_queue: MakeQueue) -> None:
    first, second = client.submit([make_job(index=index) for index in range(2)])
    client.cancel(first)
    assert purge(client, older_than_s=3600) == 0
    assert purge(client, state=JobState.FAILED) == 0
    assert purge(client) == 1
    assert [record.id for record in client.list()] == [second]
