"""Checks of Redis: can it be reached, and will it keep the queue?"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import redis

from rushes.errors import ConfigError, QueueUnavailable
from rushes.wire import connection
from rushes_service.doctor.report import Finding, fail, ok, warn
from rushes_service.doctor.software import release

OLDEST_REDIS = (6, 2)
"""XAUTOCLAIM came with 6.2."""


def check_redis(url: str) -> Iterator[Finding]:
    """Reachable, new enough, append-only file on, nothing evicted."""
    try:
        with connection.reachable(url), contextlib.closing(connection.connect(url, retries=0)) as client:
            info = client.info()
            yield check_version(url, info)
            yield check_durability(info)
            yield check_eviction(client, info)
    except (ConfigError, QueueUnavailable) as error:
        yield fail("Redis", str(error), "`rushes up` starts one; else set RUSHES_REDIS_URL or --redis-url to yours")


def check_version(url: str, info: dict[str, object]) -> Finding:
    """Old servers lack XAUTOCLAIM. Valkey also reports the Redis version that it is compatible with."""
    version = str(info.get("redis_version", "0"))
    server = f"Valkey {info['valkey_version']}" if "valkey_version" in info else f"Redis {version}"
    where = f"{server} at {connection.shown(url)}"
    if release(version) < OLDEST_REDIS:
        return fail("Redis", where, "Rushes needs Redis 6.2 or newer, or Valkey")
    return ok("Redis", where)


def check_durability(info: dict[str, object]) -> Finding:
    """Without an append-only file a restart loses the queue."""
    if not info.get("aof_enabled"):
        advice = (
            "redis-cli CONFIG SET appendonly yes (and in its configuration file), or a restart forgets queued samples"
        )
        return warn("Redis durability", "append-only file off", advice)
    if info.get("aof_last_write_status") == "err":
        return fail("Redis durability", "the append-only file cannot be written", "free disk space on the Redis host")
    return ok("Redis durability", "append-only file on")


def check_eviction(client: connection.Connection, info: dict[str, object]) -> Finding:
    """A Redis that evicts keys under memory pressure loses samples silently."""
    policy = info.get("maxmemory_policy")
    if policy is None:
        with contextlib.suppress(redis.ResponseError):  # CONFIG is closed on many hosted servers
            policy = client.config_get("maxmemory-policy").get("maxmemory-policy")
    if policy is None:
        return warn("Redis eviction", "the policy cannot be read", "make sure that it is noeviction")
    if policy != "noeviction":
        advice = "redis-cli CONFIG SET maxmemory-policy noeviction, or samples vanish when memory runs short"
        return fail("Redis eviction", f"maxmemory-policy is {policy}", advice)
    return ok("Redis eviction", "maxmemory-policy noeviction")
