"""dramatiq on Redis. Its consumers poll; an idle one sleeps between looks."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from time import monotonic_ns

import dramatiq
from dramatiq.brokers.redis import RedisBroker

from queue_peers.signals import started, url

PACKAGES = ("dramatiq",)

dramatiq.set_broker(RedisBroker(url=url()))


@dramatiq.actor
def begin(key: str) -> None:
    """The task."""
    started(key)


def command() -> list[str]:
    """Starts the worker."""
    program = Path(sys.executable).with_name("dramatiq")
    return [str(program), "queue_peers.dramatiq_queue", "--processes", "1", "--threads", "1"]


def producer(_address: str) -> Callable[[str], int]:
    """Enqueues by `send`."""

    def send(key: str) -> int:
        sent = monotonic_ns()
        begin.send(key)
        return sent

    return send
