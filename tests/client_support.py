"""A training run without a trainer, and a worker without a model, for the tests of the client."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from queue_support import MODEL, empty_safetensors
from rushes import Cadence, Run, SampleResult, TrainingSampler
from rushes._paths import SNAPSHOT_DIR, SPOOL_DIR
from rushes.submission.spool import Spool
from rushes.wire.results import JobError, JobState
from rushes_service.queue import Queue

AWAY = "redis://127.0.0.1:1/0"
"""An address where no Redis answers."""

EVERY_TEN_STEPS = Cadence(every_n_steps=10)

MakeSampler = Callable[..., TrainingSampler]


@contextmanager
def training(directory: Path, url: str) -> Iterator[MakeSampler]:
    """Makes samplers of one run, whose prompt file has two prompts; closes them."""
    made: list[TrainingSampler] = []
    prompts = directory / "prompts.txt"
    prompts.write_text("a red ball --d 1\ntwo cats --d 2\n")

    def make(
        url: str = url,
        *,
        name: str = "run",
        output_dir: Path = directory,
        cadence: Cadence = EVERY_TEN_STEPS,
        **options: Any,
    ) -> TrainingSampler:
        run = Run(name=name, model=MODEL, output_dir=str(output_dir), output_name="lora")
        made.append(TrainingSampler(run, prompts, cadence, url=url, **options))
        return made[-1]

    yield make
    for sampler in made:
        sampler.close()


def lora(directory: Path, step: int = 10) -> Path:
    """A complete LoRA file, other at every step."""
    path = empty_safetensors(directory / f"lora-{step:06d}.safetensors")
    header = f'{{"__metadata__": {{"step": "{step}"}}}}'.encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    return path


def work(url: str, state: JobState = JobState.DONE) -> list[SampleResult]:
    """Take every queued sample and end it; returns their results."""
    queue = Queue(url, worker="w", lease_s=60)
    ended: list[SampleResult] = []
    while held := queue.reserve():
        wrong = {"error": JobError(code="x", message="it was not to be")}
        outcome = {"path": "/x.png"} if state is JobState.DONE else wrong
        ended.append(SampleResult.of(held.job(), state, worker="w", **outcome))
        queue.finish(held, state, ended[-1])
    queue.redis.close()
    return ended


def spooled(directory: Path) -> list[Path]:
    """Submissions that wait for Redis."""
    return sorted((directory / SPOOL_DIR).glob("*"))


def handed_over(directory: Path) -> list[tuple[int, int | None]]:
    """Step and epoch of each submission that waits for Redis, in order."""
    submissions = [Spool(directory / SPOOL_DIR).read(path) for path in spooled(directory)]
    return [(submission.jobs[0].step, submission.jobs[0].epoch) for submission in submissions if submission]


def snapshots(directory: Path) -> list[Path]:
    """Checkpoints that are kept."""
    return sorted((directory / SNAPSHOT_DIR).glob("*"))


def logged(caplog: Any, level: int = logging.WARNING) -> str:
    """What the client has logged at `level` or above."""
    return "\n".join(record.getMessage() for record in caplog.records if record.levelno >= level)
