"""What version 0.1.0 left in Redis and on disk is read by this version.

`tests/data/version-0.1` was recorded with that version: a dump of its Redis, a spooled submission, the note of a
hand-off whose process was killed, and samples with their receipts. `@DIR@` stands for the trainer's directory.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import redis as redis_py

from rushes import Cadence, Client, JobState, ModelSpec, Run, SampleResult, TrainingSampler
from rushes._paths import SPOOL_DIR
from rushes.cli.main import main as rushes
from rushes.wire import keys
from support import wait_until

RECORDED = Path(__file__).parents[1] / "data" / "version-0.1"
RUN = "later"


def recorded(name: str, directory: Path) -> str:
    """A recorded text, as if `directory` had been the trainer's."""
    return (RECORDED / name).read_text(encoding="utf-8").replace("@DIR@", str(directory))


@pytest.fixture
def old_redis(redis_url: str, tmp_path: Path) -> Any:
    """The recorded Redis, emptied afterwards: lifetimes were not recorded."""
    connection = redis_py.Redis.from_url(redis_url, decode_responses=True)
    for key, kind, value in json.loads(recorded("redis.json", tmp_path)):
        restore(connection, key, kind, value)
    yield connection
    connection.flushall()
    connection.close()


def restore(connection: Any, key: str, kind: str, value: Any) -> None:
    """One recorded key."""
    match kind:
        case "hash":
            connection.hset(key, mapping=value)
        case "zset":
            connection.zadd(key, dict(value))
        case "set":
            connection.sadd(key, *value)
        case "string":
            connection.set(key, value)
        case "stream":
            for entry, fields in value["entries"]:
                connection.xadd(key, fields, entry)
            for group, delivered in zip(value["groups"], value["delivered"], strict=True):
                connection.xgroup_create(key, group, delivered, mkstream=True)


def states(connection: Any) -> Counter[str]:
    """How many samples are in each state."""
    return Counter(connection.hget(key, "state") for key in connection.scan_iter(f"{keys.JOB_PREFIX}*"))


def test_records_of_ended_samples_are_read(old_redis: Any, redis_url: str) -> None:
    with closing(Client(redis_url)) as client:
        records = [client.get(job) for job in old_redis.zrange(keys.INDEX, 0, -1)]
        results, _ = client.results("run", "0")
    assert Counter(record.state for record in records) == {
        JobState.DONE: 4,
        JobState.FAILED: 1,
        JobState.CANCELLED: 1,
        JobState.QUEUED: 7,
    }
    assert all(record.job is not None for record in records)
    assert [result.media_type for result in results if result.state is JobState.DONE] == ["image/png", "video/mp4"] * 2
    [failed] = [result for result in results if result.state is JobState.FAILED]
    assert failed.error is not None
    assert failed.error.code == "model"


def test_queued_jobs_are_sampled_and_older_checkpoints_superseded(
    old_redis: Any, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUSHES_REDIS_URL", redis_url)
    (tmp_path / "out").mkdir()
    assert rushes(["worker", "--rehearse", "--until-empty"]) == 0
    assert states(old_redis) == {"done": 9, "failed": 1, "cancelled": 1, "superseded": 2}
    assert len(list((tmp_path / "out" / "sample").glob("*ema*.png"))) == 1


def test_a_spooled_submission_and_an_unfinished_hand_off_reach_redis(redis_url: str, tmp_path: Path) -> None:
    spool = tmp_path / "out" / SPOOL_DIR
    spool.mkdir(parents=True)
    (spool / "00000000000000000001-1-0.json").write_text(recorded("submission.json", tmp_path))
    note = {**json.loads(recorded("handoff.note", tmp_path)), "host": "a machine that is gone"}
    (spool / "1-1-0.note").write_text(json.dumps(note))
    aged(spool / "1-1-0.note")
    header = b'{"__metadata__":{}}'
    Path(note["pending"]).write_bytes(len(header).to_bytes(8, "little") + header)
    (tmp_path / "prompts.txt").write_text("a red ball --d 1\ntwo cats --d 2 --f 5\n")
    run = Run(
        name=RUN,
        model=ModelSpec(architecture="wan2.1-t2v", model=str(tmp_path / "model")),
        output_dir=str(tmp_path / "out"),
        output_name="lora",
    )
    sampler = TrainingSampler(run, tmp_path / "prompts.txt", Cadence(every_n_steps=10), url=redis_url)
    with closing(Client(redis_url)) as client:
        wait_until(lambda: len(client.list(run=RUN)) == 4, 60, "both hand-offs to reach Redis")
        found = sorted((record.job.step, record.job.prompt_index) for record in client.list(run=RUN) if record.job)
    sampler.close()
    assert found == [(30, 0), (30, 1), (40, 0), (40, 1)]
    assert not list(spool.glob("*.json")) + list(spool.glob("*.note"))


def aged(path: Path) -> None:
    """Make a file look as if it had been written long ago."""
    os.utime(path, (1e9, 1e9))


def test_samples_are_imported_by_their_receipts(
    redis_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(RECORDED / "sample", tmp_path / "out" / "sample")
    for receipt in (tmp_path / "out" / "sample").glob("*.json"):
        receipt.write_text(receipt.read_text().replace("@DIR@", str(tmp_path)))
    assert rushes(["import", str(tmp_path / "out"), "--redis-url", redis_url]) == 0
    assert "4 samples imported, 0 were known already; runs: run" in capsys.readouterr().out
    with closing(Client(redis_url)) as client:
        ended = [record.result for record in client.list(run="run")]
    assert sorted((result.step, result.prompt.prompt) for result in ended if isinstance(result, SampleResult)) == [
        (0, "a red ball"),
        (0, "two cats"),
        (10, "a red ball"),
        (10, "two cats"),
    ]
