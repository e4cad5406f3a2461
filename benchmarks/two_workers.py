"""Samples in an hour: two workers on two cores against one worker on one.

Real worker processes with the tiny Wan model, each bound to a core of its own and to one thread, take turns: a batch
is made by one worker, then a batch by both. Beside them processes that make the same samples in a bare loop, without a
queue: what two of those win over one is what the machine allows. Wants two cores with nothing else on them.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import perf_counter, sleep

import torch

from batches import write_frames
from harness import Report, Round, medians, new_round, parser, publish, ratios, rounds_of
from rushes import Client, ModelSpec, Prompt, Run, SampleJob
from rushes.client.control import order
from rushes.submission.build import build_jobs
from rushes_service.engine.engine import Engine
from rushes_service.models.wan.tiny import build_tiny_wan
from rushes_service.processes.embedded_redis import EmbeddedRedis

BATCH, QUICK_BATCH = 32, 4
"""Even: two bare loops make half of it each."""

STEPS, QUICK_STEPS = 100, 2
"""Denoising steps of a sample: some 1 to 2 s on one core."""

READY_S = 180.0
POLL_S = 0.005
ONE, TWO = "1 worker", "2 workers"
BARE_ONE, BARE_TWO = "1 bare loop", "2 bare loops"
GOAL = 1 / 1.9
"""Two workers make at least 1.9 times as many: a sample takes at most so much of the time."""


def main() -> None:
    """Run the benchmark."""
    flags = parser(__doc__.splitlines()[0])
    flags.add_argument("--bare", type=Path, metavar="DIR", help=argparse.SUPPRESS)
    args = flags.parse_args()
    batch, steps = (QUICK_BATCH, QUICK_STEPS) if args.quick else (BATCH, STEPS)
    if args.bare:
        bare_loop(args.bare, steps)
        return
    with tempfile.TemporaryDirectory() as scratch, EmbeddedRedis(Path(scratch), port=0) as server, ExitStack() as stack:
        bench = Bench(server.url, Path(scratch), steps)
        usable = sorted(os.sched_getaffinity(0))
        cores = [usable[0], usable[-1]]
        for core in cores:
            stack.enter_context(worker(server.url, Path(scratch), core))
        bare = [stack.enter_context(BareLoop(Path(scratch), core, args.quick)) for core in cores]
        bench.warm_up()
        for loop in bare:
            loop.finish(1)
        rounds = [one_round(bench, bare, batch) for _ in range(rounds_of(args))]
        bench.client.close()
    report = Report("two_workers", "Seconds per sample with two workers / with one")
    report.add("seconds per sample, two workers / one", ratios(rounds, TWO, ONE), goal=round(GOAL, 3))
    for more, fewer in ((TWO, ONE), (BARE_TWO, BARE_ONE)):
        report.add(f"samples, {more} / {fewer}", [1 / ratio for ratio in ratios(rounds, more, fewer)])
    for name in (ONE, TWO, BARE_ONE, BARE_TWO):
        report.add(f"{name}: samples in an hour", [3600 / each_s for each_s in medians(rounds, name)], unit="")
    publish(report, args, packages=("torch", "diffusers"))


def one_round(bench: Bench, bare: list[BareLoop], batch: int) -> Round:
    """Seconds per sample: a batch by one worker, one by both; then by one bare loop, and by both."""
    taken = new_round()
    names = bench.names()
    for name, paused in ((ONE, names[1:]), (TWO, [])):
        bench.pause(paused)
        taken[name].append(bench.make(batch))
    bench.pause(names)
    for name, loops in ((BARE_ONE, bare[:1]), (BARE_TWO, bare)):
        taken[name].append(together(loops, batch))
    return taken


class BareLoop:
    """A process on one core that makes samples one after the other when it is told how many; it begins with one."""

    def __init__(self, scratch: Path, core: int, quick: bool) -> None:
        command = [sys.executable, __file__, "--bare", str(scratch), *(["--quick"] if quick else [])]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        os.sched_setaffinity(self._process.pid, {core})
        self.begin(1)

    def begin(self, count: int) -> None:
        """Have it make so many."""
        assert self._process.stdin
        self._process.stdin.write(b"%d\n" % count)
        self._process.stdin.flush()

    def finish(self, count: int) -> list[float]:
        """Wait until so many are made; when each was, in seconds."""
        assert self._process.stdout
        lines = [self._process.stdout.readline() for _ in range(count)]
        if not all(lines):
            raise SystemExit(f"a bare loop has ended: {self._process.wait()}")
        return [float(line) for line in lines]

    def __enter__(self) -> BareLoop:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()


def together(loops: list[BareLoop], batch: int) -> float:
    """Seconds per sample where bare loops make a batch between them."""
    share = batch // len(loops)
    for loop in loops:
        loop.begin(share)
    return pace([loop.finish(share) for loop in loops])


def pace(ends: Iterable[Sequence[float]]) -> float:
    """Seconds per sample of those who work side by side, each from the end of its first to the end of its last.

    Not from the batch's beginning to its end: there one of two waits for the other, which it does not in a long run.
    """
    return 1 / sum((len(times) - 1) / (max(times) - min(times)) for times in ends if len(times) > 1)


def bare_loop(scratch: Path, steps: int) -> None:
    """Make as many samples as each line of stdin says, and write after each what time it is."""
    torch.set_num_threads(1)
    engine = Engine("cpu", scratch / "cache")
    directory = scratch / f"bare-{os.getpid()}"  # of its own: the files of a sample are named after it
    directory.mkdir()
    for line in sys.stdin:
        for job in sample_jobs(scratch, "bare", steps, int(line)):
            write_frames(engine, job, directory / "x.mp4")
            print(perf_counter(), flush=True)


def sample_jobs(scratch: Path, name: str, steps: int, count: int) -> list[SampleJob]:
    """Samples of the base model, by which everybody is measured."""
    model = ModelSpec(architecture="wan2.1-t2v", model=str(build_tiny_wan(scratch / "model")))
    asked = Prompt(prompt="a red fox in the snow", width=64, height=64, frame_count=9, sample_steps=steps)
    prompts = [asked.model_copy(update={"seed": seed}) for seed in range(count)]
    return build_jobs(Run(name, model, str(scratch / "output"), output_name="x"), prompts)


@contextmanager
def worker(url: str, scratch: Path, core: int) -> Iterator[None]:
    """A worker process on one core."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "RUSHES_CACHE_DIR": str(scratch / "cache")}
    command = [sys.executable, "-m", "rushes", "worker", "--device", "cpu", "--threads", "1", "--redis-url", url]
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
        """Seconds per sample of so many."""
        self._batches += 1
        ids = self.client.submit(sample_jobs(self.scratch, f"batch-{self._batches}", self.steps, count))
        self.client.wait(ids)
        ends: dict[str | None, list[float]] = defaultdict(list)
        for record in self.client.records(ids):
            ends[record.worker].append(record.finished_at or 0.0)
        return pace(ends.values())


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
