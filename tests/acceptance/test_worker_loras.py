"""A worker process that is fed wrong LoRA files between good ones."""

from __future__ import annotations

import re
from pathlib import Path

from PIL import Image
from processes import Workers

from bad_loras import BAD
from engine_support import write_lora
from queue_support import make_job
from rushes.checkpoints.safetensors import fingerprint
from rushes.client.client import Client
from rushes.submission.build import extra_loras
from rushes.wire.jobs import Checkpoint, SampleJob
from rushes.wire.models import ModelSpec
from rushes.wire.results import JobState, SampleResult

ALL_S = 120.0
"""For a worker to start and make or refuse them all; the machine may be busy."""


def job(tmp_path: Path, model: Path, index: int, lora: Path) -> SampleJob:
    """One sample of `lora`; the same picture whenever it is the same file."""
    return make_job(
        model=ModelSpec(architecture="wan2.1-t2v", model=str(model)),
        output_dir=tmp_path / "out",
        index=index,
        checkpoint=Checkpoint(path=str(lora), fingerprint=fingerprint(lora)),
        width=32,
        height=32,
        sample_steps=2,
        seed=3,
    )


def test_each_bad_lora_fails_its_own_sample_and_every_good_one_between_is_right(
    client: Client, pool: Workers, tiny_wan: Path, tmp_path: Path
) -> None:
    good = write_lora(tmp_path / "good.safetensors", alpha=8.0)
    jobs: list[SampleJob] = []
    for kind, (make, _, _) in BAD.items():
        bad = tmp_path / f"{kind}.safetensors"
        make(bad)
        jobs += [job(tmp_path, tiny_wan, len(jobs), bad), job(tmp_path, tiny_wan, len(jobs) + 1, good)]
    style = write_lora(tmp_path / "style.safetensors", seed=5, alpha=8.0)
    jobs.append(jobs[-1].model_copy(update={"id": "0" * 32, "prompt_index": 99, "loras": extra_loras([style], [0.5])}))
    ids = client.submit(jobs)
    worker = pool.start("--until-empty")
    assert worker.wait(ALL_S) == 0
    *pairs, styled = (client.get(job_id).result for job_id in ids)
    for (_, error, message), failed in zip(BAD.values(), pairs[::2], strict=True):
        assert (failed.state, failed.error and failed.error.code) == (JobState.FAILED, error.code)
        assert re.search(message, failed.error.message)
    made = pairs[1::2]
    assert [result.state for result in made] == [JobState.DONE] * len(BAD)
    assert len({pixels(result) for result in made}) == 1
    assert styled.state is JobState.DONE
    assert pixels(styled) != pixels(made[0])
    assert "Traceback" not in pool.logs()


def pixels(result: SampleResult) -> bytes:
    """The picture of a sample."""
    assert result.path is not None
    with Image.open(result.path) as picture:
        return picture.tobytes()
