"""From a new checkpoint to its first result, over the denoising and decoding of that sample.

The worker is warm and idle, as it is between two checkpoints. In between lie the hand-off, the queue, reading and
merging the LoRA, encoding the film and the way back. The sample takes some seconds on one core: what is added to it is
a matter of milliseconds, which would be lost in a real sample's minutes and would drown one of tenths of a second.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import torch

from batches import QUICK, Jobs, Shape, finished, process_per_job, seconds_of, worker, write_frames
from harness import Report, Round, new_round, parser, publish, ratios, rounds_of
from rushes import Client
from rushes_service.engine.engine import Engine
from rushes_service.models.wan.tiny import build_tiny_wan
from rushes_service.processes.embedded_redis import EmbeddedRedis

CHECKPOINTS = 3
"""Per round."""

USUAL = Shape(208, 128, 33, 50)

WORK, OURS = "denoise + decode", "rushes worker"
RELOAD, PROCESS = "reload in the process", "fresh process"


def one_round(client: Client, engine: Engine, jobs: Jobs, checkpoints: int, scratch: Path) -> Round:
    """Seconds from checkpoint to result, everybody in turn."""
    taken = new_round()
    for _ in range(checkpoints):
        job = jobs.new()
        began = time.time()
        client.submit([job])
        [record] = finished(client, [job])
        taken[OURS].append((record.finished_at or 0.0) - began)
        seconds = seconds_of(record)
        taken[WORK].append(seconds["denoise"] + seconds["decode"])
    engine.unload()
    started = time.perf_counter()
    write_frames(engine, jobs.new(), scratch / "reloaded.mp4")
    taken[RELOAD].append(time.perf_counter() - started)
    taken[PROCESS].append(process_per_job(jobs.new(), scratch / "cache"))
    return taken


def main() -> None:
    """Run the benchmark."""
    args = parser(__doc__.splitlines()[0]).parse_args()
    torch.set_num_threads(1)
    shape, checkpoints = (QUICK, 1) if args.quick else (USUAL, CHECKPOINTS)
    with tempfile.TemporaryDirectory() as name, EmbeddedRedis(Path(name) / "redis", port=0) as server:
        scratch = Path(name)
        jobs, client = Jobs(build_tiny_wan(scratch / "wan"), scratch, shape), Client(server.url)
        engine = Engine("cpu", scratch / "cache")
        with worker(server.url, scratch / "cache"):
            warming = [jobs.new()]
            client.submit(warming)
            finished(client, warming)
            rounds = [one_round(client, engine, jobs, checkpoints, scratch) for _ in range(rounds_of(args))]
    report = Report("first_result", "From a new checkpoint to its first result, over denoising and decoding")
    for contestant in (OURS, RELOAD, PROCESS):
        report.add(contestant, ratios(rounds, contestant, WORK), goal=1.05 if contestant == OURS else None)
    report.conditions = {"checkpoints": checkpoints, "shape": str(shape)}
    publish(report, args, packages=("torch", "diffusers"))


if __name__ == "__main__":
    main()
