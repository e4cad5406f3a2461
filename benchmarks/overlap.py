"""Wall time of a warm batch of samples over the time their denoising takes: what decoding and writing add.

The denoising is timed alone, in the same round: beside a decode it would be slower, and hide what it costs. One thread
of torch each; a second core decodes and encodes. As with real models a sample is denoised for several times as long as
it is decoded, by many steps here, as the tiny transformer is much quicker than the tiny VAE.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from diffusers import WanPipeline

from batches import QUICK, Jobs, Shape, denoising, diffusers_sample, finished, process_per_job, worker
from harness import Report, Round, medians, new_round, parser, publish, ratios, rounds_of, timed
from rushes import Client
from rushes.wire.jobs import SampleJob
from rushes_service.engine.engine import Engine
from rushes_service.models.wan.tiny import build_tiny_wan
from rushes_service.processes.embedded_redis import EmbeddedRedis

SAMPLES = 8
"""Of one checkpoint."""

USUAL = Shape(208, 128, 5, 100)

ALONE, OURS, ONE_BY_ONE = "denoising alone", "rushes worker", "rushes worker --no-overlap"
WORKERS: Mapping[str, tuple[str, ...]] = {OURS: (), ONE_BY_ONE: ("--no-overlap",)}
LOOP, PROCESSES = "warm diffusers loop", "a process per job"


class Contest:
    """All contestants, warm, on one model; two workers with a server each, of which one is idle at any time."""

    def __init__(self, scratch: Path, urls: Mapping[str, str], samples: int, jobs: Jobs) -> None:
        self.scratch, self.samples, self.jobs = scratch, samples, jobs
        self.clients = {name: Client(url) for name, url in urls.items()}
        self.engine = Engine("cpu", scratch / "cache")
        self.pipe = WanPipeline.from_pretrained(jobs.model)
        self.pipe.set_progress_bar_config(disable=True)
        warming = self.jobs.new()
        denoising(self.engine, warming)
        self.diffusers_batch([warming])
        for client in self.clients.values():
            client.submit([warming])
            finished(client, [warming])

    def one_round(self, *, processes: bool) -> Round:
        """Seconds of everybody for one batch."""
        taken = new_round()
        batch = self.batch()
        denoising(self.engine, batch[0])  # merges the LoRA
        taken[ALONE].append(sum(denoising(self.engine, job) for job in batch))
        for name, client in self.clients.items():
            taken[name].append(batch_of_worker(client, self.batch()))
        taken[LOOP].append(timed(self.diffusers_batch, batch))
        if processes:
            taken[PROCESSES].append(process_per_job(batch[0], self.scratch / "cache") * self.samples)
        return taken

    def batch(self) -> list[SampleJob]:
        """Samples of one new checkpoint."""
        checkpoint = self.jobs.checkpoint()
        return [self.jobs.new(checkpoint, seed) for seed in range(self.samples)]

    def diffusers_batch(self, batch: Sequence[SampleJob]) -> None:
        """`batch` one after the other, as a script of diffusers makes it."""
        for job in batch:
            diffusers_sample(self.pipe, job, self.scratch / "peer.mp4")


def batch_of_worker(client: Client, batch: list[SampleJob]) -> float:
    """Seconds from the start of the first to the end of the last sample."""
    client.submit(batch)
    records = finished(client, batch)
    first = min(record.started_at or 0.0 for record in records)
    return max(record.finished_at or 0.0 for record in records) - first


def main() -> None:
    """Run the benchmark."""
    args = parser(__doc__.splitlines()[0]).parse_args()
    torch.set_num_threads(1)
    shape, samples = (QUICK, 2) if args.quick else (USUAL, SAMPLES)
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        urls = {}
        for number, (name, flags) in enumerate(WORKERS.items()):
            urls[name] = stack.enter_context(EmbeddedRedis(scratch / f"redis-{number}", port=0)).url
            stack.enter_context(worker(urls[name], scratch / "cache", *flags))
        contest = Contest(scratch, urls, samples, Jobs(build_tiny_wan(scratch / "wan"), scratch, shape))
        # A process per job is mostly imports: once is enough.
        rounds = [contest.one_round(processes=number == 0) for number in range(rounds_of(args))]
    report = Report("overlap", f"Wall time of {samples} samples over their denoising")
    for name in (*WORKERS, LOOP, PROCESSES):
        goal = 1.05 if name == OURS else None
        report.add(name, ratios([taken for taken in rounds if taken[name]], name, ALONE), goal=goal)
    report.add(ALONE, medians(rounds, ALONE), unit="s")
    report.conditions = {"samples": samples, "shape": str(shape)}
    publish(report, args, packages=("torch", "diffusers"))


if __name__ == "__main__":
    main()
