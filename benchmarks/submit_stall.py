"""How long `TrainingSampler.submit` holds a training loop up, against one XADD over a bare socket.

A loop makes real training steps of a small model, a millisecond or two each. Every `CYCLE` steps it saves a checkpoint
under a new name, as trainers do, removes the one before, and hands it over; at other steps of the same cycle each peer
gets its turn, also right behind a save, so that all of them see the same caches, the same idle background thread and
the same noise. One more turn submits without a save before it: the caches are coldest then. Then Redis is stopped and
the loop goes on; afterwards every sample must be there, though each checkpoint was removed long ago.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from time import perf_counter, perf_counter_ns, sleep

import redis
import torch
from safetensors.torch import save_file

from harness import (
    Report,
    Round,
    medians,
    new_round,
    parser,
    percentile,
    pooled,
    publish,
    ratios,
    rounds_of,
    timed,
    undisturbed,
)
from raw_redis import RawRedis, encoded
from rushes import Cadence, Client, ModelSpec, Prompt, Run, TrainingSampler
from rushes.submission.build import build_jobs
from rushes_service.processes.embedded_redis import EmbeddedRedis

SUBMITS = 60
"""Per round: the 99th percentile is taken over all rounds, 300 submits."""

CYCLE = 120
"""Training steps from one submit to the next, some 150 ms: the outbox has done its work by then, as it has in life."""

RECOVERY_S = 60.0
"""More than the outbox's longest pause between two tries (15 s); closed at once, it may leave some in its spool."""

POLL_S = 0.1

LORA_LAYERS = 16
"""Of 256 KiB each: 4 MiB."""

PROMPTS = ("a red fox in the snow --w 480 --h 832 --f 81 --d 1", "a paper boat on a river --w 480 --h 832 --f 81 --d 2")
SUBJECT, COLD, RAW = "submit(path)", "submit(path), not just saved", "raw XADD"
"""Contestant names; the last is what the others are divided by."""

Contestants = dict[str, Callable[[int], object]]


def main() -> None:
    """Run the benchmark."""
    args = parser(__doc__.splitlines()[0]).parse_args()
    submits, cycle = (5, 12) if args.quick else (SUBMITS, CYCLE)
    with tempfile.TemporaryDirectory() as scratch, EmbeddedRedis(Path(scratch), port=0) as server:
        bench = Bench(Path(scratch), server.url, cycle)
        up = [bench.round(submits) for _ in range(rounds_of(args))]
        server.stop()
        down = [bench.round(submits, only=SUBJECT) for _ in range(rounds_of(args))]
        server.start()
        lost = bench.lost()
        sampling = in_process_seconds(Path(scratch), 1 if args.quick else 3)
    publish(reported(up, down, lost, sampling), args, packages=("redis", "torch", "diffusers"))


class Bench:
    """One training run that hands checkpoints over, and its peers."""

    def __init__(self, scratch: Path, url: str, cycle: int) -> None:
        self.url = url
        self.cycle = cycle
        self.step = 0
        self.submitted = 0
        self.scratch = scratch
        self.lora = {f"layer_{index}": torch.zeros(64, 1024) for index in range(LORA_LAYERS)}
        self.saved = ""
        prompts = scratch / "prompts.txt"
        prompts.write_text("\n".join(PROMPTS))
        self.run = Run("benchmark", ModelSpec(architecture="wan2.1-t2v", model="/models/wan"), str(scratch))
        self.train = training_step()
        self.sampler = TrainingSampler(self.run, prompts, Cadence(every_n_steps=1), url=url)
        self.contestants = {SUBJECT: self._submit, COLD: self._submit, **peers(url, self.run)}

    def _submit(self, step: int) -> None:
        self.sampler.submit(step=step, weights=self.saved)

    def _save(self) -> None:
        """Save a checkpoint and rotate the one before away."""
        before, self.saved = self.saved, str(self.scratch / f"checkpoint-{self.step:06d}.safetensors")
        save_file(self.lora, self.saved)
        if before:
            Path(before).unlink()

    def round(self, submits: int, only: str | None = None) -> Round:
        """`submits` cycles of training steps with one turn for each contestant."""
        taken = new_round()
        names = [only] if only else list(self.contestants)
        turns = {index * self.cycle // len(names): name for index, name in enumerate(names)}
        for _ in range(submits):
            for phase in range(self.cycle):
                self.step += 1
                self.train()
                if name := turns.get(phase):
                    if name != COLD:
                        self._save()
                    contestant = self.contestants[name]
                    began = perf_counter_ns()
                    contestant(self.step)
                    taken[name].append((perf_counter_ns() - began) / 1e9)
        self.submitted += submits * len({SUBJECT, COLD}.intersection(names))
        return taken

    def lost(self) -> int:
        """Samples that were handed over and are not in Redis, though the outbox has had time for all of its tries."""
        client, deadline = Client(self.url), perf_counter() + RECOVERY_S
        while (missing := self.submitted * len(PROMPTS) - len(client.ids())) and perf_counter() < deadline:
            sleep(POLL_S)
        self.sampler.close()
        return missing


def training_step() -> Callable[[], None]:
    """One optimizer step of a small model, about 1 ms; its weights and gradients fill the nearer caches."""
    torch.set_num_threads(1)
    model = torch.nn.Sequential(*(torch.nn.Linear(256, 256) for _ in range(4)))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    batch = torch.randn(32, 256)

    def step() -> None:
        optimizer.zero_grad()
        model(batch).square().mean().backward()
        optimizer.step()

    return step


def peers(url: str, run: Run) -> Contestants:
    """Other ways to hand one sample over from the training loop, all with the same payload."""
    payload = build_jobs(run, [Prompt(prompt=PROMPTS[0])], step=1)[0].encode()
    command = encoded("XADD", "bench:raw", "MAXLEN", "~", 1000, "*", "job", payload)
    raw, client, queue = RawRedis(url), redis.Redis.from_url(url), SimpleQueue()

    def multi(step: int) -> None:
        pipeline = client.pipeline(transaction=True)
        pipeline.hset(f"bench:job:{step % 1000}", mapping={"payload": payload, "state": "queued"})
        pipeline.xadd("bench:multi", {"job": str(step)}, maxlen=1000)
        pipeline.execute()

    return {
        RAW: lambda _: raw.send(command),
        "redis-py XADD": lambda _: client.xadd("bench:xadd", {"job": payload}, maxlen=1000),
        "redis-py MULTI(HSET+XADD)": multi,
        "SimpleQueue.put": queue.put,
    }


def in_process_seconds(scratch: Path, times: int) -> list[float]:
    """What a trainer pays that samples by itself: the tiny model, 17 frames of 64x64, 4 steps, warm."""
    from diffusers import WanPipeline

    from rushes_service.models.wan.tiny import build_tiny_wan

    pipe = WanPipeline.from_pretrained(build_tiny_wan(scratch / "tiny"))
    pipe.set_progress_bar_config(disable=True)
    options = {"prompt": "a fox", "height": 64, "width": 64, "num_frames": 17, "num_inference_steps": 4}
    pipe(**options)
    return [timed(pipe, **options) for _ in range(times)]


def reported(up: list[Round], down: list[Round], lost: int, sampling: list[float]) -> Report:
    """The table."""
    report = Report("submit_stall", "Stall of the training loop per hand-off / one raw-socket XADD")
    raw = statistics.median(pooled(up, RAW))
    report.add("submit(path), median", ratios(up, SUBJECT, RAW), goal=0.25)
    report.add("submit(path), undisturbed (10th percentiles)", [undisturbed(up, SUBJECT, RAW)], goal=0.25)
    report.add("submit(path), p99 / median XADD", [percentile(pooled(up, SUBJECT), 0.99) / raw], goal=1.0)
    report.add("submit(path), Redis stopped, median", [value / raw for value in medians(down, SUBJECT)], goal=0.25)
    report.add("submit(path), Redis stopped, p99", [percentile(pooled(down, SUBJECT), 0.99) / raw], goal=1.0)
    report.add("samples lost after the outage", [lost], unit="", goal=0)
    report.add("submit(path), not just saved, undisturbed", [undisturbed(up, COLD, RAW)])
    for name in (name for name in up[0] if name not in (SUBJECT, RAW)):
        report.add(name, ratios(up, name, RAW))
        report.add(f"{name}, p99", [percentile(pooled(up, name), 0.99) / raw])
    report.add("raw XADD, p99 / median", [percentile(pooled(up, RAW), 0.99) / raw])
    report.add("sampling in the trainer (tiny model)", [seconds / raw for seconds in sampling])
    report.add("raw XADD", [value * 1e6 for value in medians(up, RAW)], unit="us")
    report.add("submit(path)", [value * 1e6 for value in medians(up, SUBJECT)], unit="us")
    return report


if __name__ == "__main__":
    main()
