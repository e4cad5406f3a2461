"""The floor: XADD here, XREADGROUP BLOCK there, both over bare sockets. No record, no acknowledgement, no lease."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic_ns

from queue_peers.signals import started, this_module, url
from raw_redis import RawRedis, encoded

PACKAGES = ()
STREAM, GROUP = "bench:latency", "group"
MARK = b"key="
"""Stands before a key, which is eight characters long."""
KEY_LENGTH = 8


def command() -> list[str]:
    """Starts the worker."""
    return this_module("raw_streams")


def producer(address: str) -> Callable[[str], int]:
    """Enqueues by a bare XADD."""
    raw = RawRedis(address)

    def send(key: str) -> int:
        message = encoded("XADD", STREAM, "*", "job", MARK + key.encode())
        sent = monotonic_ns()
        raw.send(message)
        return sent

    return send


def work() -> None:
    """Read for ever."""
    raw = RawRedis(url())
    raw.send(encoded("XGROUP", "CREATE", STREAM, GROUP, "0", "MKSTREAM"))
    read = encoded("XREADGROUP", "GROUP", GROUP, "worker", "COUNT", 1, "BLOCK", 0, "STREAMS", STREAM, ">")
    while reply := raw.send(read):
        start = reply.index(MARK) + len(MARK)
        started(reply[start : start + KEY_LENGTH].decode())


if __name__ == "__main__":
    work()
