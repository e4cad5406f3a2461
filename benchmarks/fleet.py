"""The queue under a fleet: how many samples 1 to 1000 workers get through it, and what Redis holds for each.

The workers are threads that reserve, renew and finish as real ones do, on a connection each, but make no picture: GPUs
of infinite speed. What is measured is therefore the most that the queue can do, on a machine that also has to play all
of the workers. With the records of all samples in Redis, listings and the API are timed at the end.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import redis
from starlette.testclient import TestClient

from harness import Report, parser, publish, timed
from rushes import Client, JobState, ModelSpec, Prompt, Run, SampleResult
from rushes.client.lanes import lanes
from rushes.errors import LeaseLost, QueueUnavailable
from rushes.submission.build import build_jobs
from rushes_service.api import create_app
from rushes_service.processes.embedded_redis import EmbeddedRedis
from rushes_service.queue import Queue
from rushes_service.settings import Settings

SAMPLES, QUICK_SAMPLES = 100_000, 600
FLEETS, QUICK_FLEETS = (1, 10, 100, 1000), (1, 8)
WINDOW_S, QUICK_WINDOW_S = 10.0, 0.5
"""How long each fleet is watched."""

THREADS = 250
"""Workers that one process plays."""

PROMPTS = 50
"""Samples of one submission."""

PATIENCE_S = 0.5
"""Minutes in life. Here it lets workers go from model to model often enough to be seen."""

MODELS = tuple(ModelSpec(architecture="wan2.1-t2v", model=f"/models/{name}") for name in ("a", "b", "c", "d"))
FILE_KINDS = 20
"""Times that each listing and page is asked for."""

LATENCY_GOAL_MS = 50.0


def main() -> None:
    """Run the benchmark, or play a crew of it."""
    flags = parser(__doc__.splitlines()[0])
    flags.add_argument("--samples", type=int, help=f"how many in all (default {SAMPLES:,})")
    flags.add_argument("--crew", nargs=2, metavar=("WORKERS", "URL"), help="play so many workers until SIGTERM")
    args = flags.parse_args()
    if args.crew:
        crew(int(args.crew[0]), args.crew[1])
        return
    samples = args.samples or (QUICK_SAMPLES if args.quick else SAMPLES)
    fleets, window_s = (QUICK_FLEETS, QUICK_WINDOW_S) if args.quick else (FLEETS, WINDOW_S)
    report = Report("fleet", f"The queue with up to {fleets[-1]} workers and {samples:,} samples")
    with tempfile.TemporaryDirectory() as scratch, EmbeddedRedis(Path(scratch), port=0) as server:
        client = Client(server.url)
        fill(report, client, samples)
        for workers in fleets:
            watch(report, client, server.url, workers, window_s)
        empty(report, client, server.url, samples)
        look(report, client, server.url, Path(scratch))
        client.close()
    publish(report, args, packages=("redis",))


def fill(report: Report, client: Client, samples: int) -> None:
    """Queue all samples, for each model as many."""
    before = used(client)
    began = time.perf_counter()
    for number in range(0, samples, PROMPTS):
        model = MODELS[number // PROMPTS % len(MODELS)]
        run = Run(f"run-{number // PROMPTS % 40}", model, "/train/output", output_name="lora")
        count = min(PROMPTS, samples - number)
        prompts = [Prompt(prompt=f"a red fox in the snow, take {index}", seed=index) for index in range(count)]
        client.submit(build_jobs(run, prompts, step=number + 1))
    took_s = time.perf_counter() - began
    report.add("submitted in a second", [samples / took_s], unit="")
    report.add("Redis memory of a queued sample", [(used(client) - before) / samples], unit="bytes")


def used(client: Client) -> int:
    """Bytes that Redis has allocated."""
    return client.redis.info("memory")["used_memory"]


def watch(report: Report, client: Client, url: str, workers: int, window_s: float) -> None:
    """Let a fleet work for a while: samples in a second, and how even-handed it is between the models."""
    with fleet(workers, url):
        before, began = waiting(client), time.perf_counter()
        while time.perf_counter() - began < window_s and any(waiting(client).values()):
            time.sleep(0.1)
        after, took_s = waiting(client), time.perf_counter() - began
    served = [before[name] - after[name] for name in before]
    report.add(f"{workers} workers: samples in a second", [sum(served) / took_s], unit="")
    if sum(served):
        report.add(f"{workers} workers: least served model / fair share", [min(served) * len(served) / sum(served)])


def waiting(client: Client) -> dict[str, int]:
    """Samples of each lane that have not ended."""
    return {lane.key: lane.queued + lane.running for lane in lanes(client)}


def empty(report: Report, client: Client, url: str, samples: int) -> None:
    """Have the rest made, and weigh what is left; every sample must have ended well."""
    with fleet(8, url):
        while any(waiting(client).values()):
            time.sleep(0.1)
    client.redis.execute_command("MEMORY", "PURGE")
    lost = samples - len(client.ids()) + len(client.list(state=JobState.FAILED, limit=10))
    report.add("samples lost", [lost], goal=0, unit="")
    report.add("Redis memory of a finished sample", [used(client) / samples], unit="bytes")


def look(report: Report, client: Client, url: str, scratch: Path) -> None:
    """Time what people look at while all those records are there."""
    app = create_app(Settings(redis_url=url, roots=(scratch,), cache_dir=scratch / "cache"))
    with TestClient(app, base_url="http://127.0.0.1") as http:
        asked: dict[str, Callable[[], Any]] = {
            "Client.list, newest 100": lambda: client.list(limit=100),
            "Client.list, 100 of one run": lambda: client.list(run="run-7", limit=100),
            "Client.runs": client.runs,
            "GET /v1/samples": lambda: got(http, "/v1/samples?limit=100"),
            "GET /v1/samples of one run": lambda: got(http, "/v1/samples?run=run-7&limit=100"),
            "GET /v1/queue": lambda: got(http, "/v1/queue"),
        }
        for name, ask in asked.items():
            times = [timed(ask) * 1e3 for _ in range(FILE_KINDS)]
            report.add(name, times, unit="ms", goal=LATENCY_GOAL_MS)
        report.add("Client.ids, all", [timed(client.ids) * 1e3 for _ in range(3)], unit="ms")
        report.add("Client.list, failed ones of all", [timed(failed, client) * 1e3 for _ in range(3)], unit="ms")


def got(http: TestClient, path: str) -> None:
    """Ask the API, which must answer."""
    assert http.get(path).status_code == 200, path


def failed(client: Client) -> None:
    """The dearest listing: every record is looked at and none fits."""
    assert client.list(state=JobState.FAILED) == []


@contextlib.contextmanager
def fleet(workers: int, url: str) -> Iterator[None]:
    """That many workers, at most `THREADS` of them in each process, until the end."""
    sizes = [min(THREADS, workers - first) for first in range(0, workers, THREADS)]
    here = Path(__file__)
    crews = [
        subprocess.Popen([sys.executable, str(here), "--crew", str(size), url], stdout=subprocess.PIPE)
        for size in sizes
    ]
    try:
        for process in crews:
            assert process.stdout and process.stdout.readline(), "a crew did not start"
        yield
    finally:
        for process in crews:
            process.send_signal(signal.SIGTERM)
        for process in crews:
            process.communicate()


def crew(workers: int, url: str) -> None:
    """Play workers in this process until SIGTERM."""
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    threads = [threading.Thread(target=play, args=(number, url, stopping)) for number in range(workers)]
    for thread in threads:
        thread.start()
    print("ready", flush=True)
    for thread in threads:
        thread.join()


def play(number: int, url: str, stopping: threading.Event) -> None:
    """One worker: take a sample, say once how far it is, end it."""
    queue = Queue(url, worker=f"gpu-{os.getpid()}-{number}", lease_s=60, patience_s=PATIENCE_S)
    warm = MODELS[number % len(MODELS)].fingerprint
    while not stopping.is_set():
        try:
            held = queue.reserve(warm, wait_s=0.5)
            if held is None:
                continue
            job = held.job()
            warm = job.model.fingerprint
            queue.renew(held, job.run, "denoise", 1, 1, news=True)
            result = SampleResult.of(job, JobState.DONE, path=f"/train/output/sample/{job.id}.mp4", worker=queue.worker)
            queue.finish(held, JobState.DONE, result)
        except (QueueUnavailable, LeaseLost, redis.RedisError) as error:
            print(f"worker {number}: {error}", file=sys.stderr)
    queue.redis.close()


if __name__ == "__main__":
    main()
