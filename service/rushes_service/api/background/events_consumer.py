"""A thread that follows the event stream for parts of the API that act on events: metrics, thumbnails, webhooks.

Webhooks must survive a restart and must not be sent by every API process, so they are read as a consumer group of
the events stream; what only concerns this process starts at now.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from redis.exceptions import ResponseError

from rushes.client.client import Client
from rushes.errors import QueueUnavailable
from rushes.wire import keys
from rushes.wire.connection import BLOCK_MS, reachable

log = logging.getLogger(__name__)

BATCH = 100
PAUSE_S = 2.0
"""Pause before another attempt to reach Redis, in seconds."""

STOP_S = 10.0
"""How long the thread may take to end: a blocking read, and a webhook on its way."""


@dataclass(frozen=True)
class QueueEvent:
    """One event. `at` is in seconds since 1970, by the clock of Redis."""

    id: str
    kind: str
    sample: str
    run: str
    data: dict[str, Any] = field(default_factory=dict)

    @property
    def at(self) -> float:
        """When it happened; entry ids begin with milliseconds."""
        return int(self.id.partition("-")[0]) / 1000


Listener = Callable[[QueueEvent], bool | None]
"""Acts on an event. False: it was stopped before it was done, and a group keeps the event for the next process."""


class EventConsumer:
    """Follows the events stream in a thread while it is entered.

    Args:
        group: consumer group that shares the events among processes and keeps its position; None receives all events.
        on_stop: called when it is to end, for a listener that waits.
    """

    def __init__(
        self,
        client: Client,
        listeners: Sequence[Listener],
        group: str | None = None,
        on_stop: Callable[[], None] = lambda: None,
    ) -> None:
        self._client = client
        self._listeners = listeners
        self._group = group
        self._on_stop = on_stop
        self._consumer = f"{socket.gethostname()}-{os.getpid()}"
        self._position = ""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"rushes-watch-{group or 'all'}", daemon=True)

    def __enter__(self) -> EventConsumer:
        self._thread.start()
        return self

    def ask_to_stop(self) -> None:
        """End soon; leaving waits until it has."""
        self._stop.set()
        self._on_stop()

    def __exit__(self, *_: object) -> None:
        self.ask_to_stop()
        self._thread.join(STOP_S)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                with reachable(self._client.url):
                    self._turn()
            except QueueUnavailable as error:
                log.debug("not following events: %s", error)
                self._position = ""
                self._stop.wait(PAUSE_S)

    def _turn(self) -> None:
        if not self._position:
            self._position = self._start()
        for entry_id, fields in self._read():
            handled = self._deliver(read_event(entry_id, fields))
            if self._group and handled:
                self._client.redis.xack(keys.EVENTS, self._group, entry_id)
            elif not self._group:
                self._position = entry_id
            if self._stop.is_set():
                return

    def _deliver(self, event: QueueEvent) -> bool:
        """False when a listener was stopped before it was done."""
        handled = True
        for listener in self._listeners:
            try:
                handled = listener(event) is not False and handled
            # A failing listener must not keep other listeners, or later events, from being handled.
            except Exception:
                log.exception("an event (%s of %s) could not be acted on", event.kind, event.sample)
        return handled

    def _start(self) -> str:
        """Where to read from; the group is made when it is not there."""
        if self._group is None:
            newest: Any = self._client.redis.xrevrange(keys.EVENTS, count=1)
            return newest[0][0] if newest else "0-0"
        try:
            self._client.redis.xgroup_create(keys.EVENTS, self._group, "$", mkstream=True)
        except ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise
        return ">"

    def _read(self) -> list[tuple[str, dict[str, str]]]:
        if self._group is None:
            answer: Any = self._client.redis.xread({keys.EVENTS: self._position}, count=BATCH, block=BLOCK_MS)
            return answer[0][1] if answer else []
        # First the events that a dead process had claimed.
        left: Any = self._client.redis.xautoclaim(keys.EVENTS, self._group, self._consumer, 60_000, "0-0", count=BATCH)
        if left[1]:
            return left[1]
        answer = self._client.redis.xreadgroup(
            self._group, self._consumer, {keys.EVENTS: ">"}, count=BATCH, block=BLOCK_MS
        )
        return answer[0][1] if answer else []


def read_event(entry_id: str, fields: dict[str, str] | None) -> QueueEvent:
    """An entry of the stream; one that was trimmed while it was pending is empty."""
    fields = fields or {}
    try:
        data = json.loads(fields.get("data") or "{}")
    except ValueError:
        data = {}
    return QueueEvent(
        entry_id,
        fields.get("type", ""),
        fields.get("id", ""),
        fields.get("run", ""),
        data if isinstance(data, dict) else {},
    )
