"""Helpers shared by all tests: `from support import wait_until`."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import psutil

T = TypeVar("T")

POLL_S = 0.02

PATIENCE_S = 60.0
"""How long anything may take at least before a test gives up: a busy machine may give it a tenth of a core."""


def wait_until(predicate: Callable[[], T], timeout: float, what: str) -> T:
    """The first truthy value of `predicate()`; fails the test if there is none within `timeout` seconds.

    What takes less on an idle machine is given `PATIENCE_S`.
    """
    timeout = max(timeout, PATIENCE_S)
    deadline = time.monotonic() + timeout
    while not (value := predicate()):
        if time.monotonic() > deadline:
            raise AssertionError(f"gave up after {timeout:g} s waiting for {what}; last seen: {value!r}")
        time.sleep(POLL_S)
    return value


def alive(pid: int) -> bool:
    """False for a process that is gone, or only waits to be reaped (in a container nobody may do so)."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
