"""Wall time of a warm batch of samples over the time their denoising takes: what decoding and writing add.

The denoising is timed alone, in the same round: beside a decode it would be slower, and hide what it costs. One thread
of torch each; a second core decodes and encodes.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import torch
from diffusers import WanPipeline

from batches import QUICK, USUAL, Jobs, denoising, diffusers_sample, finished, process_per_job, worker
from harness import Report, Round, new_round, parser, publish, ratios, rounds_of
from rushes import Client
from rushes_service.demo.tiny_model import build_tiny_wan
from rushes_service.embedded import EmbeddedRedis
from rushes_service.engine import Engine

SAMPLES = 8
"""Of one checkpoint."""

ALONE, OURS, ONE_BY_ONE = "denoising alone", "rushes worker", "rushes worker --no-overlap"
LOOP, PROCESSES = "warm diffusers loop", "a process per job"


class Contest:
    """All contestants, warm, on one model."""

    def __init__(self, scratch: Path, url: str, samples: int, jobs: Jobs) -> None:
        self.scratch, self.url, self.samples, self.jobs = scratch, url, samples, jobs
        self.client = Client(url)
        self.engine = Engine("cpu", scratch / "cache")
        self.pipe = WanPipeline.from_pretrained(jobs.model)
        self.pipe.set_progress_bar_config(disable=True)

    def one_round(self, *, processes: bool) -> Round:
        """Seconds of everybody for one batch."""
        taken = new_round()
        checkpoint = self.jobs.checkpoint()
        batch = [self.jobs.new(checkpoint, seed) for seed in range(self.samples)]
        denoising(self.engine, batch[0])  # merges the LoRA
        taken[ALONE].append(sum(denoising(self.engine, job) for job in batch))
        for name, flags in ((OURS, ()), (ONE_BY_ONE, ("--no-overlap",))):
            taken[name].append(self.batch_of_worker(flags))
        began = time.perf_counter()
        for job in batch:
            diffusers_sample(self.pipe, job, self.scratch / "peer.mp4")
        taken[LOOP].append(time.perf_counter() - began)
        if processes:
            taken[PROCESSES].append(process_per_job(batch[0], self.scratch / "cache") * self.samples)
        return taken

    def batch_of_worker(self, flags: tuple[str, ...]) -> float:
        """Seconds from the start of the first to the end of the last sample of a worker that is warm."""
        checkpoint = self.jobs.checkpoint()
        batch = [self.jobs.new(checkpoint, seed) for seed in range(self.samples)]
        with worker(self.url, self.scratch / "cache", *flags):
            warming = [self.jobs.new()]
            self.client.submit(warming)
            finished(self.client, warming)
            self.client.submit(batch)
            records = finished(self.client, batch)
        first = min(record.started_at or 0.0 for record in records)
        return max(record.finished_at or 0.0 for record in records) - first


def main() -> None:
    """Run the benchmark."""
    args = parser(__doc__.splitlines()[0]).parse_args()
    torch.set_num_threads(1)
    shape, samples = (QUICK, 2) if args.quick else (USUAL, SAMPLES)
    with tempfile.TemporaryDirectory() as name, EmbeddedRedis(Path(name) / "redis", port=0) as server:
        scratch = Path(name)
        contest = Contest(scratch, server.url, samples, Jobs(build_tiny_wan(scratch / "wan"), scratch, shape))
        # A process per job is mostly imports: once is enough.
        rounds = [contest.one_round(processes=number == 0) for number in range(rounds_of(args))]
    report = Report("overlap", f"Wall time of {samples} samples over their denoising")
    for name in (OURS, ONE_BY_ONE, LOOP, PROCESSES):
        goal = 1.05 if name == OURS else None
        report.add(name, ratios([taken for taken in rounds if taken[name]], name, ALONE), goal=goal)
    report.conditions = {"samples": samples, "shape": str(shape)}
    publish(report, args, packages=("torch", "diffusers"))


if __name__ == "__main__":
    main()
