"""The event stream of Redis, read once for all followers.

A connection to Redis for every open page would be 200 of them for 200 pages, each woken by every event. One task
reads instead, and keeps the newest events; who comes back from longer ago reads the older ones first.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

from rushes.wire import keys
from rushes.wire.connection import BLOCK_MS, Connection, connect_async, reachable

BATCH = 200
"""Events per read, so that one that is far behind does not hold all of them in memory."""

KEPT = 2000
"""Newest events in memory, some megabytes: minutes of a busy box."""

READERS = 8
"""Reads of older events at once: when the API restarts, every page comes back in the same second."""

Entry = tuple[str, dict[str, str]]
"""Id and fields of one event."""


class Feed:
    """Events for any number of followers over one connection. Used on one event loop.

    Args:
        url: of Redis.
        stopping: set when the server begins to shut down; every follower then ends within `BLOCK_MS`.
    """

    def __init__(self, url: str, stopping: asyncio.Event) -> None:
        self._url = url
        self._stopping = stopping
        self._kept: deque[Entry] = deque()
        self._from = "0-0"  # what comes after this is kept
        self._news = asyncio.Event()  # a new one for every piece of news
        self._reader: asyncio.Task[None] | None = None
        self._redis: Connection | None = None
        self._turn = asyncio.Semaphore(READERS)

    async def bounds(self) -> tuple[str | None, str | None]:
        """Ids of the oldest and the newest event that Redis keeps; None where there are none.

        Raises:
            QueueUnavailable: Redis cannot be reached.
        """
        first = await self._ask("xrange", keys.EVENTS, count=1)
        last = await self._ask("xrevrange", keys.EVENTS, count=1)
        return (first[0][0] if first else None), (last[0][0] if last else None)

    async def after(self, position: str) -> AsyncIterator[Entry]:
        """Events after `position`, in order, until the server stops.

        Raises:
            QueueUnavailable: Redis went away; all events until then were yielded.
        """
        reader = await self._reading()
        while not self._stopping.is_set():
            news = self._news
            if order(position) < order(self._from):
                batch = await self._ask("xrange", keys.EVENTS, min=f"({position}", count=BATCH)
                position = position if batch else self._from
            else:
                batch = self._kept_after(position)
                if not batch and reader.done():
                    reader.result()
                    return
                if not batch:
                    await news.wait()
            for entry in batch:
                yield entry
                position = entry[0]

    async def close(self) -> None:
        """Stop reading; give the connections back."""
        if self._reader is not None:
            self._reader.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await self._reader
        if self._redis is not None:
            await self._redis.aclose()

    def _kept_after(self, position: str) -> list[Entry]:
        found: list[Entry] = []
        for entry in reversed(self._kept):
            if order(entry[0]) <= order(position):
                break
            found.append(entry)
        return found[::-1]

    async def _reading(self) -> asyncio.Task[None]:
        """The task that reads, started if it is not running; by now it knows where it is."""
        if self._reader is None or self._reader.done():
            self._kept.clear()
            # Until the newest event is known, every position counts as older than the kept events.
            self._from = (await self.bounds())[1] or "0-0"
            if self._reader is None or self._reader.done():  # nobody else was quicker
                self._reader = asyncio.create_task(self._read(self._from))
        return self._reader

    async def _read(self, position: str) -> None:
        try:
            while not self._stopping.is_set():
                with reachable(self._url):
                    answer = await self._connection().xread({keys.EVENTS: position}, count=BATCH, block=BLOCK_MS)
                for entry in entries(answer):
                    position = entry[0]
                    self._keep(entry)
                if answer:
                    self._notify()
        finally:
            self._notify()

    def _keep(self, entry: Entry) -> None:
        self._kept.append(entry)
        if len(self._kept) > KEPT:
            self._from = self._kept.popleft()[0]

    def _notify(self) -> None:
        waiting, self._news = self._news, asyncio.Event()
        waiting.set()

    def _connection(self) -> Connection:
        if self._redis is None:
            self._redis = connect_async(self._url)
        return self._redis

    async def _ask(self, command: str, *arguments: Any, **options: Any) -> Any:
        async with self._turn:
            with reachable(self._url):
                return await getattr(self._connection(), command)(*arguments, **options)


def entries(answer: Any) -> list[Entry]:
    """Entries of an XREAD answer, whose outer shape depends on the protocol version (list or dict)."""
    if not answer:
        return []
    found = next(iter(answer.values())) if isinstance(answer, dict) else answer[0][1]
    return [entry for part in found for entry in (part if isinstance(part, list) else [part])]


def order(entry_id: str) -> tuple[int, int]:
    """Sort key of an entry id: milliseconds and sequence number."""
    milliseconds, _, sequence = entry_id.partition("-")
    return int(milliseconds), int(sequence)
