"""Orders to workers: pause, resume, drain. A worker looks for its order every few seconds."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from rushes import keys
from rushes.client import Client
from rushes.connection import reachable
from rushes.errors import QueueError

Order = Literal["pause", "resume", "drain"]

ORDER_TTL_S = 24 * 3600
"""An order to a worker that has died goes by itself; a living one renews it."""


def order(client: Client, names: Iterable[str], what: Order) -> list[str]:
    """Order workers to take no more samples for now, to go on, or to finish and end.

    Args:
        names: names, or their beginnings.

    Returns:
        The whole names of those that got the order.

    Raises:
        QueueError: no living worker has such a name.
        QueueUnavailable: Redis cannot be reached.
    """
    living = [worker["name"] for worker in client.workers()]
    chosen: list[str] = []
    for beginning in names:
        fitting = [name for name in living if name.startswith(beginning)]
        if not fitting:
            raise QueueError(f"no living worker's name begins with {beginning!r}; `rushes workers` lists them")
        chosen += [name for name in fitting if name not in chosen]
    with reachable(client.url):
        for name in chosen:
            if what == "resume":
                client.redis.delete(keys.order(name))
            else:
                client.redis.set(keys.order(name), what, ex=ORDER_TTL_S)
    return chosen
