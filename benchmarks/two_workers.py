"""Samples in an hour: two workers on two cores against one worker on one.

Real worker processes with the tiny Wan model, each bound to a core of its own and to one thread, take turns: a batch
is made by one worker, then a batch by both. Wants two cores with nothing else on them.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import perf_counter, sleep

from harness import Report, Round, medians, new_round, parser, publish, ratios, rounds_of
from rushes import Client, ModelSpec, Prompt, Run
from rushes.control import order
from rushes.submission import build_jobs
from rushes_service.demo.tiny_model import build_tiny_wan
from rushes_service.embedded import EmbeddedRedis

BATCH, QUICK_BATCH = 24, 4
STEPS, QUICK_STEPS = 100, 2
"""Denoising steps of a sample: some 1 to 2 s on one core."""

READY_S = 180.0
POLL_S = 0.005
ONE, TWO = "1 worker", "2 workers"
GOAL = 1 / 1.9
"""Two workers make at least 1.9 times as many: the same batch takes at most so much of the time."""


def main() -> None:
    """Run the benchmark."""
    args = parser(__doc__.splitlines()[0]).parse_args()
    batch, steps = (QUICK_BATCH, QUICK_STEPS) if args.quick else (BATCH, STEPS)
    with tempfile.TemporaryDirectory() as scratch, EmbeddedRedis(Path(scratch), port=0) as server, ExitStack() as stack:
        bench = Bench(server.url, Path(scratch), steps)
        cores = sorted(os.sched_getaffinity(0))
        for number in range(2):
            stack.enter_context(worker(server.url, Path(scratch), cores[number % len(cores)]))
        bench.warm_up()
        rounds = [bench.round(batch) for _ in range(rounds_of(args))]
        bench.client.close()
    report = Report("two_workers", "A batch of samples with two workers / with one")
    report.add("time, two workers / one", ratios(rounds, TWO, ONE), goal=round(GOAL, 3))
    report.add("samples, two workers / one", [1 / ratio for ratio in ratios(rounds, TWO, ONE)])
    for name in (ONE, TWO):
        report.add(f"{name}: samples in an hour", [3600 * batch / took_s for took_s in medians(rounds, name)], unit="")
    publish(report, args, packages=("torch", "diffusers"))


@contextmanager
def worker(url: str, scratch: Path, core: int) -> Iterator[None]:
    """A worker process on one core."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "RUSHES_CACHE_DIR": str(scratch / "cache")}
    command = [sys.executable, "-m", "rushes.cli", "worker", "--device", "cpu", "--threads", "1", "--redis-url", url]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    os.sched_setaffinity(process.pid, {core})
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


class Bench:
    """Batches of samples for two living workers, of which one can be told to pause."""

    def __init__(self, url: str, scratch: Path, steps: int) -> None:
        self.client = Client(url)
        self.scratch = scratch
        self.steps = steps
        self.model = ModelSpec(architecture="wan2.1-t2v", model=str(build_tiny_wan(scratch / "model")))
        self._batches = 0

    def warm_up(self) -> None:
        """Have both workers load the model and encode the prompt."""
        wait_for(lambda: len(self.client.workers()) == 2, "both workers")
        for name in self.names():
            self.pause([other for other in self.names() if other != name])
            self.make(2)

    def names(self) -> list[str]:
        """Names of the living workers."""
        return sorted(info["name"] for info in self.client.workers())

    def pause(self, names: list[str]) -> None:
        """Have these workers pause, and all others work."""
        order(self.client, self.names(), "resume")
        if names:
            order(self.client, names, "pause")
        wanted = {name: "paused" if name in names else "idle" for name in self.names()}
        wait_for(lambda: {info["name"]: info["state"] for info in self.client.workers()} == wanted, f"{wanted}")

    def make(self, count: int) -> float:
        """Seconds from the submission of so many samples to the end of the last."""
        self._batches += 1
        run = Run(f"batch-{self._batches}", self.model, str(self.scratch / "output"), output_name="x")
        asked = Prompt(prompt="a red fox in the snow", width=64, height=64, frame_count=9, sample_steps=self.steps)
        prompts = [asked.model_copy(update={"seed": seed}) for seed in range(count)]
        began = perf_counter()
        self.client.wait(self.client.submit(build_jobs(run, prompts)))
        return perf_counter() - began

    def round(self, batch: int) -> Round:
        """A batch by one worker, then one by both."""
        taken = new_round()
        for name, paused in ((ONE, self.names()[1:]), (TWO, [])):
            self.pause(paused)
            taken[name].append(self.make(batch))
        return taken


def wait_for(true: object, what: str) -> None:
    """Wait for a condition of the workers."""
    assert callable(true)
    deadline = perf_counter() + READY_S
    while not true():
        if perf_counter() > deadline:
            raise SystemExit(f"waited {READY_S:g} s in vain for {what}")
        sleep(POLL_S)


if __name__ == "__main__":
    main()
