"""rq, with the worker that does not fork for each job: its fastest."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic_ns

from redis import Redis
from rq import Queue, SimpleWorker

from queue_peers.signals import started, this_module, url

PACKAGES = ("rq",)


def begin(key: str) -> None:
    """The task."""
    started(key)


def command() -> list[str]:
    """Starts the worker."""
    return this_module("rq_queue")


def producer(address: str) -> Callable[[str], int]:
    """Enqueues by import path."""
    queue = Queue(connection=Redis.from_url(address))

    def send(key: str) -> int:
        sent = monotonic_ns()
        queue.enqueue("queue_peers.rq_queue.begin", key)
        return sent

    return send


if __name__ == "__main__":
    SimpleWorker([Queue(connection=Redis.from_url(url()))]).work(logging_level="ERROR")
