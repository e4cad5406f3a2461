"""`rushes lanes` and `rushes workers check`: what autoscalers and health checks ask."""

from __future__ import annotations

import json
import socket

import pytest

from queue_support import MODEL, make_job
from rushes.cli.main import main
from rushes.client.client import Client
from rushes.client.lanes import lanes
from rushes.wire import keys
from rushes.wire.models import ModelSpec
from rushes.wire.results import JobState
from rushes_service.queue import Queue

OTHER = ModelSpec(architecture="flux1-kontext", model="/models/flux")


def test_lanes_tell_what_waits_and_what_runs(redis_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    client, queue = Client(redis_url), Queue(redis_url, worker="w", lease_s=60)
    first, *_ = client.submit([make_job(index=index) for index in range(3)])
    client.submit([make_job(model=OTHER).model_copy(update={"priority": "interactive"})])
    assert main(["jobs", "cancel", first, "--redis-url", redis_url]) == 0
    queue.reserve(MODEL.fingerprint)
    capsys.readouterr()
    assert main(["lanes", "--json", "--redis-url", redis_url]) == 0
    found = {lane["key"]: lane for lane in json.loads(capsys.readouterr().out)}
    assert list(found) == [keys.lane(OTHER.fingerprint, "interactive"), keys.lane(MODEL.fingerprint, "training")]
    interactive, training = found.values()
    assert (interactive["queued"], interactive["running"]) == (0, 1)
    assert (training["queued"], training["running"]) == (2, 0)
    assert interactive["wait_s"] == 0
    assert training["wait_s"] >= 0
    assert training["model"] == "wan2.1-t2v (tiny)"
    client.close()
    queue.redis.close()


def test_a_table_of_lanes_is_for_people(redis_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lanes", "--redis-url", redis_url]) == 0
    assert "no lanes" in capsys.readouterr().out
    client = Client(redis_url)
    client.submit([make_job()])
    assert main(["lanes", "--redis-url", redis_url]) == 0
    out = capsys.readouterr().out
    assert "1 queued" in out
    assert "wan2.1-t2v (tiny)" in out
    client.close()


def test_a_lane_that_has_lost_its_stream_is_empty(redis_url: str) -> None:
    client = Client(redis_url)
    client.submit([make_job()])
    client.redis.delete(keys.lane(MODEL.fingerprint, "training"))
    assert [(lane.queued, lane.running, lane.wait_s) for lane in lanes(client)] == [(0, 0, 0.0)]
    client.close()


def test_a_health_check_finds_the_worker_of_this_machine(redis_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    queue = Queue(redis_url, worker=f"{socket.gethostname()}-cpu-1-abcd", lease_s=60)
    check = ["workers", "--redis-url", redis_url, "check"]
    assert main(check) == 1
    assert socket.gethostname() in capsys.readouterr().out
    queue.announce({"state": "idle"})
    assert main(check) == 0
    assert main([*check, "elsewhere"]) == 1
    queue.leave()
    queue.redis.close()


def test_the_end_of_a_sample_empties_its_lane(redis_url: str) -> None:
    client, queue = Client(redis_url), Queue(redis_url, worker="w", lease_s=60)
    client.submit([make_job()])
    held = queue.reserve()
    assert held
    queue.finish(held, JobState.DONE, None)
    assert client.redis.xlen(keys.lane(MODEL.fingerprint, "training")) == 0
    client.close()
    queue.redis.close()
