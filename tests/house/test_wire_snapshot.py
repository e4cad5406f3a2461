"""A change of the protocol is a change of a file that a reviewer reads."""

from __future__ import annotations

import redis as redis_py
import wire_snapshot


def test_the_protocol_is_the_one_that_was_reviewed(redis_url: str) -> None:
    found = wire_snapshot.snapshot(redis_url)
    redis_py.Redis.from_url(redis_url).flushall()
    assert found == wire_snapshot.SNAPSHOT.read_text(encoding="utf-8"), (
        "the protocol changed: see tests/house/wire_snapshot.py for what to ask before it is written anew"
    )
