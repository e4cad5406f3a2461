"""A first submission: its prompts are encoded in one load of each encoder, by a real worker on a real queue."""

from __future__ import annotations

import contextlib
import json
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import engine_support  # one thread, no network
from queue_support import make_job
from rushes.client.client import Client
from rushes.submission.build import Run, build_job
from rushes.wire.jobs import Prompt, SampleJob
from rushes.wire.models import ModelSpec
from rushes.wire.results import JobState
from rushes_service.catalogue.adoption import find
from rushes_service.engine.engine import Engine
from rushes_service.media.receipts import read_receipt
from rushes_service.queue import Queue
from rushes_service.settings import Settings
from rushes_service.storage.disk_cache import CONDITIONING_DIR
from rushes_service.storage.path_map import PathMap
from rushes_service.worker.ahead import waiting_for
from rushes_service.worker.loop import Worker
from valkey_support import free_port

PROMPTS = 8
TINY = {"width": 32, "height": 32, "frame_count": 1, "sample_steps": 1}


@pytest.fixture
def signals() -> Iterator[None]:
    """A worker in this process leaves its handlers behind."""
    before = {name: signal.getsignal(name) for name in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM)}
    yield
    for name, handler in before.items():
        signal.signal(name, handler)


def submission(model: ModelSpec, out: Path, *, wrong: int | None = None) -> list[SampleJob]:
    """Eight prompts of one submission; the one at `wrong` cannot be sampled."""
    return [
        make_job(
            f"ball number {index}",
            model=model,
            output_dir=out,
            index=index,
            **TINY,
            **({"discrete_flow_shift": 0.0} if index == wrong else {}),
        )
        for index in range(PROMPTS)
    ]


def embeddings(cache: Path) -> dict[str, tuple[object, bytes]]:
    """Header and numbers of every embedding that a cache has; safetensors writes metadata in any order."""
    found = {}
    for file in (cache / CONDITIONING_DIR).rglob("*.safetensors"):
        raw = file.read_bytes()
        end = 8 + int.from_bytes(raw[:8], "little")
        found[file.name] = (json.loads(raw[8:end]), raw[end:])
    return found


def work(redis_url: str, engine: Engine, cache: Path) -> None:
    settings = Settings(cache_dir=cache, lease_s=30.0, heartbeat_s=0.05)
    Worker(Queue(redis_url, worker="ahead", lease_s=30.0), engine, settings, until_empty=True).run()


@pytest.mark.usefixtures("signals")
def test_eight_new_prompts_load_the_encoder_once_and_a_wrong_one_fails_alone(
    redis_url: str, tiny_wan: Path, tmp_path: Path
) -> None:
    model = ModelSpec(architecture="wan2.1-t2v", model=str(tiny_wan))
    # Nothing is kept in host memory: one load is all that there may be.
    engine = Engine("cpu", tmp_path / "together", encoder_bytes=0)
    with contextlib.closing(Client(redis_url)) as client:
        ids = client.submit(submission(model, tmp_path / "out", wrong=3))
        work(redis_url, engine, tmp_path / "together")
        states = [client.get(job_id).state for job_id in ids]
    assert engine.shared.encoders.loads == 1
    assert states == [JobState.FAILED if index == 3 else JobState.DONE for index in range(PROMPTS)]

    alone = Engine("cpu", tmp_path / "alone", encoder_bytes=0)
    for job in submission(model, tmp_path / "out"):
        if job.prompt_index != 3:
            alone.denoise(job, engine_support.Recorder())
    assert alone.shared.encoders.loads == PROMPTS - 1
    assert embeddings(tmp_path / "together") == embeddings(tmp_path / "alone")


def test_an_outage_is_left_to_the_lease_to_tell(caplog: pytest.LogCaptureFixture) -> None:
    queue = Queue(f"redis://127.0.0.1:{free_port()}/0", worker="ahead", lease_s=30.0)
    with caplog.at_level("INFO"):
        assert waiting_for("0" * 16, queue, PathMap()) == ()
    assert caplog.records == []


@pytest.mark.usefixtures("signals")
def test_previews_of_one_batch_have_their_own_turns_files_and_receipts(
    redis_url: str, tiny_wan: Path, tmp_path: Path
) -> None:
    model = ModelSpec(architecture="wan2.1-t2v", model=str(tiny_wan))
    engine = Engine("cpu", tmp_path / "cache", batching="on")
    with contextlib.closing(Client(redis_url)) as client:
        ids = client.submit(submission(model, tmp_path / "out", wrong=3))
        client.cancel(ids[5])
        work(redis_url, engine, tmp_path / "cache")
        records = [client.get(job_id) for job_id in ids]
        wanted = {3: JobState.FAILED, 5: JobState.CANCELLED}
        assert [record.state for record in records] == [wanted.get(index, JobState.DONE) for index in range(PROMPTS)]
        made = [record.result for record in records if record.state is JobState.DONE]
    receipts = [read_receipt(Path(result.receipt)) for result in made]
    assert [receipt["batch"] for receipt in receipts] == [{"samples": PROMPTS - 2, "denoised_with": ids[0]}] * 6
    assert len({Path(result.path).read_bytes() for result in made}) == PROMPTS - 2
    assert len({receipt["parameters"]["prompt"] for receipt in receipts}) == PROMPTS - 2


@pytest.mark.usefixtures("signals")
def test_a_draft_and_the_exact_sample_of_a_prompt_are_two_files_with_receipts(
    redis_url: str, tiny_wan: Path, tmp_path: Path
) -> None:
    model = ModelSpec(architecture="wan2.1-t2v", model=str(tiny_wan))
    run = Run(name="run", model=model, output_dir=str(tmp_path / "out"), output_name="lora")
    prompt = Prompt(prompt="a red ball", seed=1, **{**TINY, "sample_steps": 3})
    jobs = [build_job(replace(run, draft=draft), prompt, 0, None, 0, None, 1.7e9) for draft in (None, 1e9)]
    engine = Engine("cpu", tmp_path / "cache", batching="on")
    with contextlib.closing(Client(redis_url)) as client:
        ids = client.submit(jobs)
        work(redis_url, engine, tmp_path / "cache")
        exact, draft = (client.get(job_id).result for job_id in ids)
    assert (exact.draft, draft.draft) == (None, 1e9)
    assert Path(draft.path).stem == f"{Path(exact.path).stem}_draft1000000000.0"
    assert Path(exact.path).read_bytes() != Path(draft.path).read_bytes()
    assert "draft" not in read_receipt(Path(exact.receipt))
    told = read_receipt(Path(draft.receipt))
    assert (told["draft"]["technique"], told["draft"]["skipped_steps"]) == ("FirstBlockCache", 2)
    assert [warning for warning in draft.warnings if "approximate" in warning] == [
        "draft, threshold 1e+09: approximate, 2 of 3 steps were skipped; not to judge a LoRA by"
    ]
    found = {sample.job.id: sample.job.draft for sample in find(tmp_path / "out", None, (), print)}
    assert found == dict(zip(ids, (None, 1e9), strict=True)), "a gallery that is rebuilt from receipts"


def test_a_new_prompt_finds_the_encoder_in_host_memory(tiny_wan: Path, tmp_path: Path) -> None:
    model = ModelSpec(architecture="wan2.1-t2v", model=str(tiny_wan))
    engine = Engine("cpu", tmp_path, encoder_bytes=1 << 30)
    jobs = submission(model, tmp_path / "out")[:3]
    latents = [engine.denoise(job, engine_support.Recorder()).latents for job in jobs]
    assert engine.shared.encoders.loads == 1
    assert not torch.equal(latents[0], latents[1])
