"""A trainer, a worker and an API that share no file system: everything goes through a real S3 server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from processes import Workers, workers

from api_support import serving
from client_support import lora, snapshots, spooled
from proxy_support import Proxy
from queue_support import MODEL
from rushes import Cadence, Client, Run, TrainingSampler
from rushes.checkpoints.store import store_of
from rushes.wire.results import JobState
from s3_support import BUCKET, S3, s3_server, variables
from support import wait_until
from valkey_support import free_port

START_S = 120.0
STAGING = f"s3://{BUCKET}/runs"


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    """A server, and the variables that lead this process and its children to it."""
    with s3_server() as server:
        for name, value in server.variables.items():
            monkeypatch.setenv(name, value)
        forget_servers()
        yield server
        forget_servers()


def forget_servers() -> None:
    """Have the next store that is asked for look at the environment."""
    store_of.cache_clear()
    fsspec.get_filesystem_class("s3").clear_instance_cache()


@pytest.fixture
def pool(s3: S3, redis_url: str, tmp_path: Path) -> Iterator[Workers]:
    (tmp_path / "worker").mkdir()
    with workers(redis_url, tmp_path / "worker") as pool:
        yield pool


def test_a_worker_without_the_trainers_disk_makes_its_samples(
    s3: S3, client: Client, pool: Workers, redis_url: str, tmp_path: Path
) -> None:
    trainer = tmp_path / "trainer"
    trainer.mkdir()
    (trainer / "prompts.txt").write_text("a red ball --w 32 --h 32 --f 5 --s 2 --d 1\n")
    run = Run(name="cat/1", model=MODEL, output_dir=str(trainer), output_name="lora", staging=STAGING)
    sampler = TrainingSampler(run, trainer / "prompts.txt", Cadence(), url=redis_url)
    weights = lora(trainer)
    sampler.submit(step=10, weights=weights)
    sampler.close()
    assert (snapshots(trainer), spooled(trainer)) == ([], [])
    weights.unlink()

    assert pool.start("--dry-run", "--until-empty").wait(START_S) == 0
    [result] = client.results("cat/1")[0]
    assert result.state is JobState.DONE, pool.logs()
    assert result.path is not None and result.path.startswith(f"{STAGING}/cat%2F1/sample/lora_000010_00_")
    names = s3.keys()
    assert [name.rpartition(".")[2] for name in names] == ["json", "mp4"]  # and no checkpoint any more
    assert not list((pool.directory / "cache" / "staged" / "work").iterdir())
    receipt = json.loads(s3.client.get_object(Bucket=BUCKET, Key=names[0])["Body"].read())
    assert str(pool.directory) not in json.dumps(receipt)

    with serving(redis_url, tmp_path / "api") as api:
        media = f"/v1/samples/{result.id}/media"
        whole = api.http.get(media)
        assert whole.content == s3.client.get_object(Bucket=BUCKET, Key=names[1])["Body"].read()
        part = api.http.get(media, headers={"Range": "bytes=4-7"})
        assert (part.status_code, part.content) == (206, b"ftyp")
        assert api.http.get(f"/v1/samples/{result.id}/receipt").json() == receipt
        still = api.http.get(f"/v1/samples/{result.id}/thumbnail")
        assert still.headers["content-type"] == "image/webp"


def test_a_worker_waits_for_a_store_that_is_away(
    s3: S3, client: Client, pool: Workers, redis_url: str, tmp_path: Path
) -> None:
    trainer = tmp_path / "trainer"
    trainer.mkdir()
    (trainer / "prompts.txt").write_text("a red ball --w 32 --h 32 --f 1 --s 2 --d 1\n")
    run = Run(name="cat", model=MODEL, output_dir=str(trainer), output_name="lora", staging=STAGING)
    sampler = TrainingSampler(run, trainer / "prompts.txt", Cadence(), url=redis_url)
    sampler.submit(step=10, weights=lora(trainer))
    sampler.close()

    port = free_port()
    settings = {**variables(port), "RUSHES_RETRY_DELAY_S": "0", "RUSHES_MAX_ATTEMPTS": "1"}
    worker = pool.start("--dry-run", "--until-empty", **settings)
    wait_until(lambda: pool.logs().count("waits for the store") >= 2, START_S, "a worker that waits")
    wait_until(lambda: client.list()[0].stage == "wait", START_S, "a stage that says so")
    with Proxy(s3.port, port=port):
        assert worker.wait(START_S) == 0
    [result] = client.results("cat")[0]
    assert result.state is JobState.DONE, pool.logs()
    assert result.path is not None and store_of(STAGING).size(result.path)
