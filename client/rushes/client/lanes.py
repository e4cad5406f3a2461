"""The lanes of the queue: which base models samples wait for, how many, and for how long."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from rushes.client.client import Client
from rushes.wire import keys
from rushes.wire.connection import reachable
from rushes.wire.models import ModelSpec


@dataclass(frozen=True)
class LaneInfo:
    """Samples of one base model at one priority. `key` is the stream in Redis, `wait_s` the longest wait in seconds."""

    key: str
    model: str
    priority: str
    queued: int
    running: int
    wait_s: float


def lanes(client: Client) -> list[LaneInfo]:
    """Every lane that was ever written, those that are served first before the others.

    Waiting is measured by the server's clock alone.

    Raises:
        QueueUnavailable: Redis cannot be reached.
    """
    with reachable(client.url):
        models: dict[str, str] = client.redis.hgetall(keys.LANES)
        names = sorted(models, key=lambda name: (keys.PRIORITIES.index(priority_of(name)), name))
        pipeline = client.redis.pipeline(transaction=False)
        pipeline.time()
        for name in names:
            pipeline.xlen(name)
            pipeline.xinfo_groups(name)
        (seconds, _), *facts = pipeline.execute(raise_on_error=False)
        groups = [group_of(found) for found in facts[1::2]]
        for name, group in zip(names, groups, strict=True):
            pipeline.xrange(name, min=f"({group['last-delivered-id']}", count=1)
        heads = pipeline.execute()
    found: list[LaneInfo] = []
    for name, length, group, head in zip(names, facts[::2], groups, heads, strict=True):
        running = group["pending"]
        wait_s = max(0.0, seconds - int(head[0][0].split("-")[0]) / 1000) if head else 0.0
        label = label_of(models[name])
        found.append(LaneInfo(name, label, priority_of(name), max(0, length - running), running, wait_s))
    return found


def group_of(groups: Any) -> dict[str, Any]:
    """The workers' group of an XINFO GROUPS answer; that of a stream without it, or of no stream, is an empty one."""
    if isinstance(groups, list):
        for group in groups:  # pyright: ignore[reportUnknownVariableType]
            if group["name"] == keys.GROUP:
                return group  # pyright: ignore[reportUnknownVariableType]
    return {"pending": 0, "last-delivered-id": "0-0"}


def priority_of(lane: str) -> str:
    """The priority at the end of a lane's name."""
    return lane.rsplit(":", 1)[-1]


def label_of(model: str) -> str:
    """What people call a base model."""
    try:
        return ModelSpec.model_validate_json(model).label
    except ValidationError:
        return "a model of another version"
