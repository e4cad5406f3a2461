"""Rushes: `Client.submit` here, the worker's own reserve, lease and finish there, with record, events and results."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic_ns

from queue_peers.signals import started, this_module, url
from rushes import Client, JobState, ModelSpec, Prompt, Run, SampleResult
from rushes.submission.build import build_jobs
from rushes_service.queue import Queue
from rushes_service.worker.lease import Lease, Shutdown

PACKAGES = ("redis",)
HEARTBEAT_S = 0.5


def command() -> list[str]:
    """Starts the worker."""
    return this_module("rushes_queue")


def producer(address: str) -> Callable[[str], int]:
    """Enqueues one sample of a training run; each key makes a checkpoint's worth of a new id."""
    client = Client(address)
    model = ModelSpec(architecture="wan2.1-t2v", model="/models/wan")

    def send(key: str) -> int:
        run = Run(f"bench-{key[:4]}", model, "/output", output_name=key)
        jobs = build_jobs(run, [Prompt(prompt=f"a red fox in the snow {key}", seed=1)], step=1)
        sent = monotonic_ns()
        client.submit(jobs)
        return sent

    return send


def work() -> None:
    """Take samples as a worker does, and end them at once."""
    queue = Queue(url(), worker="bench", lease_s=30)
    while True:
        held = queue.reserve(wait_s=1)
        if held is None:
            continue
        moment = monotonic_ns()
        job = held.job()
        with Lease(queue, held, job.run, heartbeat_s=HEARTBEAT_S, shutdown=Shutdown(0), beat=lambda _: None):
            started(job.output_name or "", moment)
        queue.finish(held, JobState.DONE, SampleResult.of(job, JobState.DONE))


if __name__ == "__main__":
    work()
