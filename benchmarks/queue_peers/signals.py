"""How a worker tells the benchmark that a task has begun: one datagram with the key and the moment."""

from __future__ import annotations

import os
import socket
import sys
from functools import cache
from time import monotonic_ns

URL_VARIABLE = "BENCH_REDIS_URL"
SOCKET_VARIABLE = "BENCH_SOCKET"


@cache
def channel() -> socket.socket:
    """The worker's end."""
    end = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    end.connect(os.environ[SOCKET_VARIABLE])
    return end


def started(key: str, moment: int | None = None) -> None:
    """Report the task `key` as begun, now or at `moment`."""
    channel().send(f"{key} {moment or monotonic_ns()}".encode())


def url() -> str:
    """The Redis server of the benchmark, for modules that need it at import."""
    return os.environ[URL_VARIABLE]


def this_module(name: str) -> list[str]:
    """Command that runs a module of this package as a worker."""
    return [sys.executable, "-m", f"queue_peers.{name}"]
