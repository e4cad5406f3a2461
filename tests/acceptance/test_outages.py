"""What Redis may do to those who are connected: be slow, be stuck, be full, forget everything, fail over."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import Workers, workers

from client_support import logged, lora, spooled, training, work
from proxy_support import Proxy
from queue_support import MODEL, make_job
from rushes import Client
from rushes.errors import QueueUnavailable
from rushes.wire import keys
from rushes.wire.results import JobState
from rushes_service.queue import Queue
from support import wait_until
from valkey_support import LOCALHOST, PRIMARY, Server, server, watched_pair

START_S = 60.0


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rushes.training.outbox.LAST_RETRY_S", 0.2)
    monkeypatch.setattr("rushes.training.outbox.RECOUNT_EVERY_S", 0.1)


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Server]:
    """A server that a test may maltreat."""
    with server(tmp_path / "redis", "--save", "") as running:
        yield running


@pytest.fixture
def url(own: Server) -> str:
    return f"redis://{LOCALHOST}:{own.port}/0"


@pytest.fixture
def pool(url: str, tmp_path: Path) -> Iterator[Workers]:
    with workers(url, tmp_path) as pool:
        yield pool


def states(client: Client) -> list[str]:
    return sorted(record.state.value for record in client.list())


def all_done(client: Client, count: int) -> None:
    """Wait for `count` samples, and for nothing else to be left."""
    wait_until(lambda: quietly(client) == ["done"] * count, START_S, f"{count} finished samples")


def quietly(client: Client) -> list[str]:
    """States, or none while Redis is away."""
    try:
        return states(client)
    except QueueUnavailable:
        return []


def test_a_slow_redis_delays_samples_and_loses_none(own: Server, url: str, tmp_path: Path) -> None:
    with Proxy(own.port) as proxy, workers(proxy.url, tmp_path) as pool, training(tmp_path, proxy.url) as make:
        proxy.delay_s = 0.1
        pool.start("--dry-run")
        make().submit(step=10, weights=lora(tmp_path))
        client = Client(url)
        all_done(client, 2)
        assert proxy.connections > 1
        client.close()


def test_a_redis_that_takes_requests_and_never_answers_is_an_outage_like_any_other(
    own: Server, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("rushes.wire.connection.SOCKET_TIMEOUT_S", 0.3)
    with Proxy(own.port) as proxy, training(tmp_path, proxy.url) as make:
        proxy.stick()
        make().submit(step=10, weights=lora(tmp_path))
        wait_until(lambda: "cannot be reached" in logged(caplog), 10, "a warning")
        assert len(spooled(tmp_path)) == 1
        proxy.flow()
        wait_until(lambda: not spooled(tmp_path), 20, "the spool to be handed over")
        client = Client(url)
        assert states(client) == ["queued", "queued"]
        client.close()


def test_a_full_redis_keeps_the_hand_off_in_the_spool_until_there_is_room(
    own: Server, url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with training(tmp_path, url) as make:
        own.connection.config_set("maxmemory", "1")
        make().submit(step=10, weights=lora(tmp_path))
        wait_until(lambda: "full" in logged(caplog), 10, "a warning")
        assert len(spooled(tmp_path)) == 1
        assert own.connection.keys() == []
        own.connection.config_set("maxmemory", "0")
        wait_until(lambda: not spooled(tmp_path), 20, "the spool to be handed over")
        assert len(logged(caplog, logging.WARNING).splitlines()) == 1
        assert "jobs purge" in logged(caplog)
        client = Client(url)
        assert states(client) == ["queued", "queued"]
        client.close()


def test_workers_of_a_full_redis_go_on_with_what_is_queued(
    own: Server, url: str, tmp_path: Path, pool: Workers
) -> None:
    client = Client(url)
    client.submit([make_job(index=index, output_dir=tmp_path, sample_steps=5) for index in range(3)])
    own.connection.config_set("maxmemory", "1")
    with pytest.raises(QueueUnavailable, match="full"):
        client.submit([make_job(index=9)])
    pool.start("--dry-run")
    all_done(client, 3)
    client.close()


def test_a_redis_that_has_forgotten_everything_ends_no_worker(
    own: Server, url: str, tmp_path: Path, pool: Workers
) -> None:
    client = Client(url)
    worker = pool.start("--dry-run")
    [lost] = client.submit([make_job(output_dir=tmp_path, sample_steps=200)])
    wait_until(lambda: client.get(lost).stage == "denoise", START_S, "a running sample")
    own.connection.flushall()
    client.submit([make_job(output_dir=tmp_path, index=1)])
    all_done(client, 1)
    assert worker.poll() is None
    assert "belongs to another worker" in pool.logs()
    client.close()


def test_a_lane_whose_stream_or_group_is_gone_is_made_anew(own: Server, url: str) -> None:
    client, lane = Client(url), keys.lane(MODEL.fingerprint, "training")
    queue = Queue(url, worker="w", lease_s=60)
    client.submit([make_job()])
    own.connection.xgroup_destroy(lane, keys.GROUP)
    assert queue.reserve() is not None
    own.connection.delete(lane)
    assert queue.reserve() is None
    [again] = client.submit([make_job(index=1)])
    held = queue.reserve()
    assert held and held.id == again
    client.close()
    queue.redis.close()


def test_a_trainer_does_not_wait_for_samples_that_redis_has_forgotten(
    own: Server, url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with training(tmp_path, url) as make:
        sampler = make()
        sampler.submit(step=10, weights=lora(tmp_path))
        wait_until(lambda: own.connection.zcard(keys.INDEX) == 2, 10, "two samples")
        wait_until(lambda: not spooled(tmp_path), 10, "an empty spool")
        own.connection.flushall()
        assert sampler.close(wait=True, timeout=60) == []
        assert "Redis has lost 2 samples" in logged(caplog)


def test_client_and_worker_follow_a_failover(tmp_path: Path) -> None:
    with watched_pair(tmp_path / "pair") as (primary, replica, sentinel):
        url = f"redis+sentinel://{LOCALHOST}:1,{LOCALHOST}:{sentinel.port}/{PRIMARY}/0"
        with workers(url, tmp_path) as pool, training(tmp_path, url) as make:
            client, sampler = Client(url), make()
            pool.start("--dry-run")
            sampler.submit(step=10, weights=lora(tmp_path))
            all_done(client, 2)
            primary.end()
            sampler.submit(step=20, weights=lora(tmp_path, 20))
            wait_until(lambda: replica.connection.info("replication")["role"] == "master", 30, "a new primary")
            all_done(client, 4)
            client.close()


def test_results_of_before_and_after_a_failover_reach_the_trainer(tmp_path: Path) -> None:
    with watched_pair(tmp_path / "pair") as (primary, replica, sentinel):
        url = f"redis+sentinel://{LOCALHOST}:{sentinel.port}/{PRIMARY}"
        with training(tmp_path, url) as make:
            sampler = make()
            sampler.submit(step=10, weights=lora(tmp_path))
            wait_until(lambda: replica.connection.zcard(keys.INDEX) == 2, 10, "two samples on the replica")
            primary.end()
            with contextlib.closing(Client(url)) as client:
                wait_until(lambda: quietly(client) == ["queued", "queued"], 30, "the new primary")
            assert len(work(url)) == 2
            results = sampler.close(wait=True, timeout=30)
            assert [result.state for result in results] == [JobState.DONE, JobState.DONE]
