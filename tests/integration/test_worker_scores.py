"""Scores through the worker: in record, receipt and event; none fails a sample or makes the next one wait."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest

from clip_support import tiny_clip
from queue_support import make_job
from rushes.client.client import Client
from rushes.wire import keys
from rushes.wire.results import JobState, SampleResult
from rushes_service.queue import Queue
from rushes_service.scores.registry import Score
from rushes_service.settings import Settings
from rushes_service.worker.dry_run import DryRunEngine
from rushes_service.worker.loop import Worker
from support import wait_until


@pytest.fixture
def client(redis_url: str) -> Iterator[Client]:
    before = {name: signal.getsignal(name) for name in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM)}
    with contextlib.closing(Client(redis_url)) as client:
        yield client
        client.redis.flushdb()
    for name, handler in before.items():
        signal.signal(name, handler)


def work(redis_url: str, tmp_path: Path, scores: Mapping[str, Score]) -> None:
    """Make all that is queued with a dry run."""
    settings = Settings(cache_dir=tmp_path / "cache")
    queue = Queue(redis_url, worker="scoring", lease_s=30)
    Worker(queue, DryRunEngine(step_s=0), settings, until_empty=True, scores=scores).run()


def submit(client: Client, tmp_path: Path, count: int = 1) -> list[str]:
    jobs = [make_job(index=index, output_dir=tmp_path, width=32, height=32, frame_count=5) for index in range(count)]
    return client.submit(jobs)


def result_of(client: Client, sample: str) -> SampleResult:
    result = client.get(sample).result
    assert result is not None and result.state is JobState.DONE
    return result


def test_scores_are_in_record_receipt_and_event(client: Client, redis_url: str, tmp_path: Path) -> None:
    (sample,) = submit(client, tmp_path)
    seen: list[tuple[tuple[int, ...], str]] = []

    def score(frames: np.ndarray, prompt: str) -> Mapping[str, float]:
        seen.append((frames.shape, prompt))
        return {"bright": 0.5}

    work(redis_url, tmp_path, {"bright": score})

    result = result_of(client, sample)
    assert result.scores == {"bright": 0.5}
    assert seen == [((5, 32, 32, 3), result.prompt.prompt)]
    assert json.loads(Path(result.receipt or "").read_text())["scores"] == {"bright": 0.5}
    events = [fields for _, fields in client.redis.xrange(keys.EVENTS) if fields["type"] == "scored"]
    assert [json.loads(event["data"])["scores"] for event in events] == [{"bright": 0.5}]


def test_a_score_that_raises_is_a_warning_and_the_others_count(client: Client, redis_url: str, tmp_path: Path) -> None:
    (sample,) = submit(client, tmp_path)

    def broken(frames: np.ndarray, prompt: str) -> Mapping[str, float]:
        raise RuntimeError("out of patience")

    work(redis_url, tmp_path, {"broken": broken, "nan": lambda *_: {"x": float("nan")}, "fine": lambda *_: {"y": 1.0}})

    result = result_of(client, sample)
    assert result.scores == {"y": 1.0}
    assert any("score broken failed: RuntimeError: out of patience" in text for text in result.warnings)
    assert any("score nan failed" in text for text in result.warnings)
    assert json.loads(Path(result.receipt or "").read_text())["warnings"] == list(result.warnings)


def test_a_slow_score_keeps_no_other_sample_waiting(client: Client, redis_url: str, tmp_path: Path) -> None:
    samples = submit(client, tmp_path, 4)

    def slow(frames: np.ndarray, prompt: str) -> Mapping[str, float]:
        # Longer than everything else takes: it returns when all samples are done, which they never were if they waited.
        wait_until(
            lambda: all(client.get(sample).state is JobState.DONE for sample in samples), 60, "the other samples"
        )
        return {"slow": 1.0}

    work(redis_url, tmp_path, {"slow": slow})

    assert [result_of(client, sample).scores for sample in samples] == [{"slow": 1.0}] * 4, "the worker ends after them"


def test_a_sample_that_is_gone_is_not_scored(client: Client, redis_url: str, tmp_path: Path) -> None:
    (sample,) = submit(client, tmp_path)

    def purged(frames: np.ndarray, prompt: str) -> Mapping[str, float]:
        client.redis.delete(keys.job(sample))
        return {"x": 1.0}

    work(redis_url, tmp_path, {"purged": purged})

    assert not client.redis.exists(keys.job(sample)), "no half of a record comes back"


def test_a_tiny_clip_scores_through_the_command(client: Client, redis_url: str, tmp_path: Path) -> None:
    (sample,) = submit(client, tmp_path / "out")
    clip = tiny_clip(tmp_path / "clip")
    flags = ["--dry-run", "--until-empty", "--redis-url", redis_url, "--cache-dir", str(tmp_path / "cache")]

    command = [sys.executable, "-m", "rushes", "worker", *flags, "--score", f"clip={clip}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)

    assert done.returncode == 0, done.stderr
    assert -1 <= result_of(client, sample).scores["clip"] <= 1


@pytest.mark.parametrize(
    ("flags", "message"),
    [(["--score", "nothing"], "there are: clip"), (["--score_images", "/nowhere"], "no such directory")],
)
def test_wrong_flags_end_the_worker_at_once(redis_url: str, flags: list[str], message: str, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "rushes",
        "worker",
        "--dry-run",
        "--redis-url",
        redis_url,
        "--cache-dir",
        str(tmp_path),
        *flags,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)

    assert done.returncode == 2
    assert message in done.stderr and "Traceback" not in done.stderr
