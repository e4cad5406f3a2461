"""A worker that finishes one sample while it denoises the next: whatever happens to it, each is made once."""

from __future__ import annotations

from pathlib import Path

from processes import Workers

from queue_support import make_job
from rushes.client.client import Client
from rushes.wire.models import ModelSpec
from rushes.wire.results import JobState
from support import wait_until

START_S = 120.0
"""A worker imports torch and diffusers first; the machine may be busy."""


def two_samples(client: Client, tmp_path: Path, model: Path) -> list[str]:
    """The first takes long to decode, the second to denoise."""
    spec = ModelSpec(architecture="wan2.1-t2v", model=str(model))
    out = tmp_path / "out"
    long = make_job(model=spec, output_dir=out, width=96, height=96, frame_count=161, sample_steps=1)
    slow = make_job(model=spec, output_dir=out, index=1, width=32, height=32, frame_count=5, sample_steps=150)
    return client.submit([long, slow])


def wait_for_both(client: Client, ids: list[str]) -> None:
    wait_until(
        lambda: [(record := client.get(job_id)).stage for job_id in ids] == ["decode", "denoise"] and record,
        START_S,
        "one sample to be decoded while the other one is denoised",
    )


def wait_for_files(client: Client, tmp_path: Path, ids: list[str]) -> None:
    """Both samples done, one file with its receipt each, and nothing else."""
    for job_id in ids:
        wait_until(lambda job_id=job_id: client.get(job_id).state is JobState.DONE, START_S, "a sample to be done")
    assert len(list((tmp_path / "out" / "sample").iterdir())) == 2 * len(ids)


def test_two_samples_are_on_their_way_at_once(client: Client, pool: Workers, tmp_path: Path, tiny_wan: Path) -> None:
    ids = two_samples(client, tmp_path, tiny_wan)
    worker = pool.start("--until-empty")
    wait_for_both(client, ids)
    assert worker.wait(START_S) == 0
    wait_for_files(client, tmp_path, ids)


def test_a_worker_that_is_killed_over_two_samples_loses_neither(
    client: Client, pool: Workers, tmp_path: Path, tiny_wan: Path
) -> None:
    ids = two_samples(client, tmp_path, tiny_wan)
    first = pool.start()
    wait_for_both(client, ids)
    first.kill()
    pool.start("--no-overlap")
    wait_for_files(client, tmp_path, ids)
