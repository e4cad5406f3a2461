"""User data of a run and its samples: title, note, archive state, favourites."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rushes.client.client import Client
from rushes.wire import keys
from rushes.wire.base import FrozenModel
from rushes.wire.connection import reachable

ARCHIVED = "archived"


class About(FrozenModel):
    """Title, note and archive state of a run."""

    title: str | None = None
    note: str | None = None
    archived: bool = False


def about(client: Client, runs: Iterable[str]) -> list[About]:
    """The user data of each run, in order."""
    with reachable(client.url):
        pipeline = client.redis.pipeline(transaction=False)
        for run in runs:
            pipeline.hgetall(keys.about(run))
        found: list[Any] = pipeline.execute()
    return [
        About(title=fields.get("title"), note=fields.get("note"), archived=fields.get(ARCHIVED) == "1")
        for fields in found
    ]


def describe(client: Client, run: str, changes: dict[str, Any]) -> None:
    """Change the user data of a run; None removes a field."""
    texts = {name: "1" if value is True else value for name, value in changes.items() if value not in (None, False)}
    gone = [name for name in changes if name not in texts]
    with reachable(client.url):
        pipeline = client.redis.pipeline(transaction=True)
        if texts:
            pipeline.hset(keys.about(run), mapping=texts)
        if gone:
            pipeline.hdel(keys.about(run), *gone)
        pipeline.expire(keys.about(run), keys.ABOUT_TTL_S)
        pipeline.execute()


def favourites(client: Client, run: str) -> set[str]:
    """Ids of the favourite samples of a run."""
    with reachable(client.url):
        found: Any = client.redis.smembers(keys.favourites(run))
    return set(found)


def mark(client: Client, run: str, job_id: str, favourite: bool) -> None:
    """Mark or unmark a sample as a favourite, and publish an event."""
    data = '{"favourite": true}' if favourite else '{"favourite": false}'
    event: Any = {"type": "marked", "id": job_id, "run": run, "data": data}
    with reachable(client.url):
        pipeline = client.redis.pipeline(transaction=True)
        (pipeline.sadd if favourite else pipeline.srem)(keys.favourites(run), job_id)
        pipeline.expire(keys.favourites(run), keys.ABOUT_TTL_S)
        pipeline.xadd(keys.EVENTS, event, maxlen=keys.EVENTS_MAXLEN, approximate=True)
        pipeline.execute()
