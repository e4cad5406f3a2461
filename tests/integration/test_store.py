"""What a trainer puts into a store for workers elsewhere, and what this machine keeps of a store's files."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from s3fs import S3FileSystem

from client_support import logged, lora, snapshots, spooled, work
from queue_support import MODEL
from rushes import Cadence, Client, Run, TrainingSampler
from rushes.checkpoints.staging import snapshots_of
from rushes.checkpoints.store import store_of
from rushes.errors import ConfigError, StagingError, StoreUnavailable
from rushes.wire.results import JobState
from rushes_service.storage.staged import StagedFiles
from s3_support import s3_server
from support import wait_until


@pytest.fixture
def store(tmp_path: Path) -> Iterator[str]:
    """The URL of a store: fsspec's own for directories, so that any file can be looked at."""
    yield f"file://{tmp_path}/store"
    store_of.cache_clear()


def train(directory: Path, url: str, staging: str, prompts: str = "a red ball --d 1\n") -> TrainingSampler:
    """A sampler that has submitted one checkpoint."""
    directory.mkdir(exist_ok=True)
    (directory / "prompts.txt").write_text(prompts)
    run = Run(name="run", model=MODEL, output_dir=str(directory), output_name="lora", staging=staging)
    sampler = TrainingSampler(run, directory / "prompts.txt", Cadence(), url=url)
    sampler.submit(step=10, weights=str(lora(directory)))
    return sampler


def objects(tmp_path: Path) -> list[str]:
    """Names of the files in the store, without their directories' hashes."""
    return sorted(path.name for path in (tmp_path / "store").rglob("*") if path.is_file())


def test_checkpoint_and_pictures_are_in_the_store_for_as_long_as_they_are_needed(
    client: Client, redis_url: str, store: str, tmp_path: Path
) -> None:
    (tmp_path / "a start.png").write_bytes(b"picture")
    (tmp_path / "motion").mkdir()
    (tmp_path / "motion" / "0.png").write_bytes(b"frame")
    train(
        tmp_path / "out", redis_url, store, f"a ball --d 1 --i {tmp_path}/a start.png --cn {tmp_path}/motion\n"
    ).close()
    [record] = client.list()
    assert record.job and record.job.checkpoint
    checkpoint = f"{record.job.checkpoint.fingerprint}.safetensors"
    assert objects(tmp_path) == sorted(["0.png", "a%20start.png", checkpoint])
    assert (snapshots(tmp_path / "out"), spooled(tmp_path / "out")) == ([], [])

    cache = StagedFiles(tmp_path / "cache", 1 << 30)
    picture = cache.fetch(store, record.job.prompt.image_path or "")
    assert (picture.name, picture.read_bytes()) == ("a start.png", b"picture")
    assert (cache.fetch(store, record.job.prompt.control_video_path or "") / "0.png").read_bytes() == b"frame"

    work(redis_url)
    assert objects(tmp_path) == ["0.png", "a%20start.png"]


def test_a_store_that_is_away_keeps_hand_offs_in_the_spool_until_it_is_back(
    client: Client, redis_url: str, store: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "store").write_text("not a directory")
    sampler = train(tmp_path / "out", redis_url, store)
    wait_until(lambda: "cannot be reached" in logged(caplog), 30, "the outbox to say so")
    assert client.list() == [] and len(spooled(tmp_path / "out")) == 1
    (tmp_path / "store").unlink()
    wait_until(lambda: client.list(), 30, "the hand-off")
    sampler.close()
    assert spooled(tmp_path / "out") == []


def test_a_store_that_refuses_is_told_once_with_what_to_look_at(
    client: Client, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with s3_server() as s3:
        for name, value in {**s3.variables, "AWS_EC2_METADATA_DISABLED": "true"}.items():
            monkeypatch.setenv(name, value)
        sampler = train(tmp_path / "out", redis_url, "s3://mistyped/runs")
        wait_until(lambda: "look at the bucket's name" in logged(caplog, logging.ERROR), 30, "the outbox to say so")
        s3.client.create_bucket(Bucket="mistyped")
        wait_until(lambda: client.list(), 30, "the hand-off")
        sampler.close()
        assert logged(caplog).count("mistyped") == 1
        S3FileSystem.clear_instance_cache()  # they keep their credentials
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        with pytest.raises(StagingError, match="missing: AWS_SECRET_ACCESS_KEY; look at the URL") as refused:
            store_of("s3://rushes/nowhere").size("s3://rushes/nowhere/x")
        assert not isinstance(refused.value, StoreUnavailable)
    with pytest.raises(StagingError, match="Protocol not known: s4") as refused:
        store_of("s4://rushes")
    assert not isinstance(refused.value, StoreUnavailable)
    store_of.cache_clear()
    S3FileSystem.clear_instance_cache()


def test_a_checkpoint_that_is_gone_before_it_is_uploaded_fails_its_sample_alone(
    client: Client, redis_url: str, store: str, tmp_path: Path
) -> None:
    (tmp_path / "store").write_text("not a directory")
    sampler = train(tmp_path / "out", redis_url, store)
    wait_until(lambda: spooled(tmp_path / "out"), 30, "the spool")
    for path in [*snapshots(tmp_path / "out"), lora(tmp_path / "out")]:
        path.unlink()
    (tmp_path / "store").unlink()
    [record] = wait_until(lambda: client.list(), 30, "the failed sample")
    assert record.state is JobState.FAILED and record.result and record.result.error
    assert record.result.error.code == "checkpoint_missing" and "deleted" in record.result.error.message
    sampler.close()


def test_a_checkpoint_that_a_killed_worker_left_in_the_store_is_removed_later(
    redis_url: str, store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = Path(snapshots_of(store, "run").removeprefix("file://")) / "0.safetensors"
    left.parent.mkdir(parents=True)
    left.touch()
    monkeypatch.setattr("rushes.training.outbox.UNNEEDED_S", 0.0)
    sampler = train(tmp_path / "out", redis_url, store)
    wait_until(lambda: not left.exists(), 30, "the outbox to look")
    sampler.close()
    assert [Path(name).suffix for name in objects(tmp_path)] == [".safetensors"]  # that of the queued sample stays


def test_content_other_than_the_name_says_is_never_used(
    client: Client, redis_url: str, store: str, tmp_path: Path
) -> None:
    train(tmp_path / "out", redis_url, store).close()
    job = client.list()[0].job
    assert job and job.checkpoint
    place = Path(job.checkpoint.path.removeprefix("file://"))
    place.write_bytes(place.read_bytes()[:-1])
    cache = StagedFiles(tmp_path / "cache", 1 << 30)
    with pytest.raises(StagingError, match="other content"):
        cache.fetch(store, job.checkpoint.path)
    for url in (f"file://{tmp_path}/out/prompts.txt", f"{store}/..%2F..%2F..%2Fprompts.txt"):
        with pytest.raises(StagingError, match="outside"):
            cache.fetch(store, url)
    place.unlink()
    with pytest.raises(StagingError, match="not there"):
        cache.fetch(store, job.checkpoint.path)
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []


def test_what_was_fetched_longest_ago_goes_first(store: str, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    cache = StagedFiles(tmp_path / "cache", 250)
    places = []
    for name in "abc":
        (tmp_path / "store" / name).write_bytes(bytes(100))
        places.append(cache.fetch(store, f"{store}/{name}"))
        os.utime(places[-1].parent, (len(places), len(places)))  # used long ago, in this order
    assert [place.exists() for place in places] == [False, True, True]
    (tmp_path / "store" / "d").write_bytes(bytes(100))
    cache.fetch(store, f"{store}/d")
    assert [place.exists() for place in places] == [False, False, True]


@pytest.mark.parametrize("url", ["/mnt/out", "s3://KEY:SECRET@bucket/runs"])
def test_what_is_no_store_is_found_before_training(url: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="rushes_staging"):
        Run(name="run", model=MODEL, output_dir=str(tmp_path), staging=url)
