"""SAQ: an asyncio queue on Redis lists."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic_ns
from typing import Any

from saq import Queue, Worker

from queue_peers.signals import started, this_module, url

PACKAGES = ("saq",)


async def begin(_context: Any, *, task: str) -> None:
    """The task."""
    started(task)


def command() -> list[str]:
    """Starts the worker."""
    return this_module("saq_queue")


def producer(address: str) -> Callable[[str], int]:
    """Enqueues from an event loop of its own."""
    loop = asyncio.new_event_loop()
    queue = Queue.from_url(address)
    loop.run_until_complete(queue.connect())

    async def enqueue(key: str) -> int:
        sent = monotonic_ns()
        await queue.enqueue("begin", task=key)
        return sent

    return lambda key: loop.run_until_complete(enqueue(key))


if __name__ == "__main__":
    asyncio.run(Worker(Queue.from_url(url()), functions=[begin]).start())
