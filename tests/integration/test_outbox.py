"""The hand-off survives what happens to training boxes: Redis away, processes killed, forked and ended early."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from client_support import AWAY, MakeSampler, logged, lora, snapshots, spooled, training, work
from queue_support import MODEL
from rushes import Client, TrainingSampler
from rushes._paths import SPOOL_DIR
from rushes.training.handoffs import HandoffJournal
from rushes.wire.keys import lane
from rushes_service.processes.embedded_redis import EmbeddedRedis
from support import wait_until

LANE = lane(MODEL.fingerprint, "training")

TRAINER = """
import os, sys, time
import rushes.checkpoints.weights
sys.path.insert(0, sys.argv[4])
from pathlib import Path
from client_support import lora
from queue_support import MODEL
from rushes import Cadence, Run, TrainingSampler
directory, url, ending = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
(directory / "prompts.txt").write_text("a red ball --d 1\\ntwo cats --d 2\\n")
run = Run(name="run", model=MODEL, output_dir=str(directory), output_name="lora")
sampler = TrainingSampler(run, directory / "prompts.txt", Cadence(), url=url)
if ending == "hash":
    rushes.checkpoints.weights.fingerprint = lambda path: time.sleep(600)  # a large checkpoint on a slow disk
sampler.submit(step=10, weights=lora(directory))
if ending in ("hang", "hash"):
    time.sleep(600)
if ending == "raise":
    raise SystemExit("the trainer fell over")
if ending == "fork":
    if os.fork():
        os.wait()
    else:
        sampler.submit(step=20, weights=lora(directory, 20))
"""
"""A training process: output directory, Redis URL, how it ends, directory of the tests' own modules."""


@pytest.fixture
def make(tmp_path: Path, redis_url: str) -> Iterator[MakeSampler]:
    with training(tmp_path, redis_url) as maker:
        yield maker


def trainer(directory: Path, url: str, ending: str) -> subprocess.Popen[str]:
    """A training process that submits one checkpoint."""
    command = [sys.executable, "-c", TRAINER, str(directory), url, ending, str(Path(__file__).parents[1])]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def steps(client: Client) -> list[int]:
    """Steps of all records, each as often as it has samples."""
    return sorted(record.job.step for record in client.list(limit=1000) if record.job)


def test_an_outage_loses_nothing_and_makes_nothing_twice(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rushes.training.outbox.LAST_RETRY_S", 0.2)
    with EmbeddedRedis(tmp_path / "state", 0) as server, training(tmp_path, server.url) as make:
        client = Client(server.url)
        sampler = make()
        sampler.submit(step=10, weights=lora(tmp_path, 10))
        wait_until(lambda: len(client.ids()) == 2, 10, "the first checkpoint")
        wait_until(lambda: not spooled(tmp_path), 10, "an empty spool")
        server.stop()
        for step in (20, 30):
            sampler.submit(step=step, weights=lora(tmp_path, step))
        wait_until(lambda: len(spooled(tmp_path)) == 2, 10, "two submissions in the spool")
        wait_until(lambda: "cannot be reached" in logged(caplog), 10, "a warning")
        with caplog.at_level(logging.INFO):
            server.start()
            wait_until(lambda: not spooled(tmp_path), 20, "the spool to be handed over")
            wait_until(lambda: "Redis is back" in logged(caplog, logging.INFO), 10, "the good news")
        assert steps(client) == [10, 10, 20, 20, 30, 30]
        assert client.redis.xlen(LANE) == 6
        assert len(logged(caplog).splitlines()) == 1
        client.close()


def test_what_a_killed_process_left_in_the_spool_is_replayed_by_the_next(
    make: MakeSampler, client: Client, tmp_path: Path
) -> None:
    process = trainer(tmp_path, AWAY, "hang")
    wait_until(lambda: len(list((tmp_path / SPOOL_DIR).glob("*.json"))) == 1, 20, "a submission in the spool")
    process.send_signal(signal.SIGKILL)
    process.communicate()
    make()
    wait_until(lambda: not spooled(tmp_path), 10, "the spool to be handed over")
    assert steps(client) == [10, 10]
    assert len(snapshots(tmp_path)) == 1


def test_a_checkpoint_that_was_being_hashed_when_its_process_was_killed_is_handed_over_by_the_next(
    make: MakeSampler, client: Client, tmp_path: Path
) -> None:
    process = trainer(tmp_path, AWAY, "hash")
    wait_until(lambda: list((tmp_path / SPOOL_DIR).glob("*.note")), 20, "the note of the hand-off")
    lora(tmp_path).unlink()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    make()
    wait_until(lambda: client.list(), 20, "the hand-off")
    wait_until(lambda: not spooled(tmp_path), 10, "an empty spool")
    assert steps(client) == [10, 10]
    assert [record.state for record in client.list()] == ["queued", "queued"]
    assert len(snapshots(tmp_path)) == 1


def test_a_hand_off_of_a_machine_that_is_gone_is_handed_over_once_that_is_certain(
    make: MakeSampler, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rushes.training.outbox.RELEASE_EVERY_S", 0.05)
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr("rushes.training.handoffs.socket.gethostname", lambda: "a container that is gone")
        note = HandoffJournal(tmp_path / SPOOL_DIR, "run").write(
            10, None, lora(tmp_path).rename(tmp_path / "x.pending"), None
        )
    sampler = make()
    sampler.submit(step=20, weights=lora(tmp_path, 20))
    wait_until(lambda: len(client.ids()) == 2, 10, "its own")
    assert note is not None
    os.utime(note, (0, 0))
    wait_until(lambda: len(client.ids()) == 4, 10, "the other's")
    assert steps(client) == [10, 10, 20, 20]


@pytest.mark.parametrize("ending", ["end", "raise"])
def test_a_process_that_ends_hands_over_first(client: Client, redis_url: str, tmp_path: Path, ending: str) -> None:
    process = trainer(tmp_path, redis_url, ending)
    _, err = process.communicate(timeout=120)
    assert ("fell over" in err) == (ending == "raise")
    assert "Traceback" not in err
    assert steps(client) == [10, 10]
    assert spooled(tmp_path) == []


def test_a_process_that_ends_while_redis_is_away_leaves_a_spool_and_does_not_hang(tmp_path: Path) -> None:
    process = trainer(tmp_path, AWAY, "end")
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0
    assert "cannot be reached" in err
    assert len(spooled(tmp_path)) == 1


def test_a_redis_that_is_back_while_the_last_try_is_under_way_gets_what_waits(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf, training(tmp_path, url_of(deaf)) as make:
        sampler = make()
        sampler.submit(step=10, weights=lora(tmp_path))
        connection, (_, port) = deaf.accept()[0], deaf.getsockname()
        ending = threading.Thread(target=sampler.close)
        ending.start()
        wait_until(lambda: sampler._outbox is None or sampler._outbox._hurry.is_set(), 10, "a flush")
        deaf.close()
        with EmbeddedRedis(tmp_path / "valkey", port):
            connection.close()
            ending.join()
            assert not spooled(tmp_path)


def url_of(server: socket.socket) -> str:
    """The Redis URL of a socket that listens."""
    return f"redis://127.0.0.1:{server.getsockname()[1]}/0"


def test_a_forked_process_hands_over_its_own(client: Client, redis_url: str, tmp_path: Path) -> None:
    process = trainer(tmp_path, redis_url, "fork")
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert steps(client) == [10, 10, 20, 20]


def submit_in_child(sampler: TrainingSampler, path: Path, results: int) -> None:
    """What a child process does with a sampler that it got from its parent."""
    assert len(sampler.results()) == results
    sampler.submit(step=20, weights=path)


@pytest.mark.parametrize("away", [False, True])
def test_a_multiprocessing_child_hands_over_its_own_and_not_its_parents(
    make: MakeSampler, client: Client, redis_url: str, tmp_path: Path, away: bool
) -> None:
    sampler = make(AWAY if away else redis_url)
    sampler.submit(step=10, weights=lora(tmp_path))
    if away:
        wait_until(lambda: len(list((tmp_path / SPOOL_DIR).glob("*.json"))) == 1, 10, "the parent's submission")
    else:
        wait_until(lambda: len(client.ids()) == 2, 10, "the parent's samples")
        work(redis_url)
    child = multiprocessing.get_context("fork").Process(target=submit_in_child, args=(sampler, lora(tmp_path, 20), 0))
    child.start()
    child.join(30)
    assert child.exitcode == 0
    if away:
        written = [json.loads(path.read_text())["jobs"] for path in spooled(tmp_path)]
        assert sorted(json.loads(jobs[0]).get("step") for jobs in written) == [10, 20]
    else:
        assert steps(client) == [10, 10, 20, 20]


def test_a_child_that_was_forked_does_not_wait_for_its_parents_samples(make: MakeSampler, client: Client) -> None:
    sampler = make()
    sampler.submit(step=0)
    wait_until(lambda: len(client.ids()) == 2, 10, "the parent's samples")
    wait_until(lambda: sampler._outbox and len(sampler._outbox.expected) == 2, 10, "the parent to expect results")
    child = multiprocessing.get_context("fork").Process(target=sampler.close, args=(True,))
    child.start()
    child.join(30)
    assert child.exitcode == 0


def test_a_spool_that_cannot_be_written_still_hands_over(
    make: MakeSampler, client: Client, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / ".rushes").write_text("in the way")
    sampler = make()
    sampler.submit(step=0)
    sampler.submit(step=10, weights=lora(tmp_path))
    sampler.submit(step=20)
    wait_until(lambda: len(client.ids()) == 6, 10, "all samples")
    assert [record.state.value for record in client.list()][::-1] == ["queued"] * 2 + ["failed"] * 2 + ["queued"] * 2
    assert "step 0 would not survive a crash" in logged(caplog)
    assert "Traceback" not in caplog.text


def test_a_file_in_the_spool_that_is_no_parcel_stops_no_other(
    make: MakeSampler, client: Client, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / SPOOL_DIR).mkdir(parents=True)
    (tmp_path / SPOOL_DIR / "0-damaged.json").write_bytes(b"\xff{")
    make().submit(step=0)
    wait_until(lambda: len(client.ids()) == 2, 10, "the samples")
    wait_until(lambda: [path.name for path in spooled(tmp_path)] == ["0-damaged.bad"], 10, "the file set aside")
    assert "set aside" in logged(caplog)


def test_processes_that_submit_the_same_thing_at_once_make_one_set_of_samples(
    client: Client, redis_url: str, tmp_path: Path
) -> None:
    processes = [trainer(tmp_path, redis_url, "end") for _ in range(2)]
    for process in processes:
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
    assert steps(client) == [10, 10]
    assert client.redis.xlen(LANE) == 2


def test_a_closed_sampler_leaves_no_thread(make: MakeSampler) -> None:
    before = threading.active_count()
    sampler = make()
    sampler.submit(step=0)
    sampler.close()
    sampler.submit(step=10)
    assert threading.active_count() == before
