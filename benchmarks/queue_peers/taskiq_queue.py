"""taskiq-redis: an asyncio queue on Redis Streams, with acknowledgements."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path
from time import monotonic_ns

from taskiq_redis import RedisStreamBroker

from queue_peers.signals import started, url

PACKAGES = ("taskiq", "taskiq-redis")

broker = RedisStreamBroker(url())


@broker.task
async def begin(key: str) -> None:
    """The task."""
    started(key)


def command() -> list[str]:
    """Starts the worker."""
    program = Path(sys.executable).with_name("taskiq")
    return [str(program), "worker", "queue_peers.taskiq_queue:broker", "--workers", "1", "--log-level", "ERROR"]


def producer(_address: str) -> Callable[[str], int]:
    """Enqueues from an event loop of its own."""
    loop = asyncio.new_event_loop()
    loop.run_until_complete(broker.startup())

    async def enqueue(key: str) -> int:
        sent = monotonic_ns()
        await begin.kiq(key)
        return sent

    return lambda key: loop.run_until_complete(enqueue(key))
