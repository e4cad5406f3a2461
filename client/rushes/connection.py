"""How Rushes talks to Redis: one place for URLs, timeouts and what an outage is called."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import redis
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

from rushes.errors import ConfigError, QueueUnavailable

DEFAULT_URL = "redis://127.0.0.1:6379/0"
URL_VARIABLE = "RUSHES_REDIS_URL"

CONNECT_TIMEOUT_S = 2.0
SOCKET_TIMEOUT_S = 10.0
"""Longer than any blocking read of ours."""

BLOCK_MS = 1000
"""How long one blocking read waits."""


Connection = Any
"""A `redis.Redis`; its own annotations are too loose for a strict checker."""


def connect(url: str | None = None, *, retries: int = 2) -> Connection:
    """A Redis client for `url`, else `RUSHES_REDIS_URL`, else a local server. Nothing is sent yet.

    Raises:
        ConfigError: the URL is not one.
    """
    url = url or os.environ.get(URL_VARIABLE) or DEFAULT_URL
    try:
        return redis.Redis.from_url(  # pyright: ignore[reportUnknownMemberType]
            url,
            decode_responses=True,
            protocol=2,  # answers to XREAD have another shape in RESP3, which newer clients speak by default
            socket_connect_timeout=CONNECT_TIMEOUT_S,
            socket_timeout=SOCKET_TIMEOUT_S,
            health_check_interval=30,
            retry=Retry(ExponentialBackoff(cap=1.0, base=0.05), retries),
            retry_on_error=[redis.ConnectionError, redis.TimeoutError],
        )
    except ValueError as error:
        why = "" if "@" in url else f" ({error})"  # it may quote a piece of the password
        raise ConfigError(f"{shown(url)} is not a Redis URL{why}; write redis://HOST:PORT/0 or rediss://…") from None


def shown(url: str) -> str:
    """A URL for messages: without its password."""
    scheme, _, rest = url.partition("://")
    login, _, place = rest.rpartition("@")
    user, colon, _ = login.partition(":")
    return f"{scheme}://{user}:***@{place}" if colon else url


@contextmanager
def reachable(url: str | None) -> Generator[None]:
    """Turn what Redis says into `QueueUnavailable` with the address and what to do."""
    try:
        yield
    except redis.AuthenticationError as error:
        raise QueueUnavailable(f"Redis at {address(url)} refuses the login: {error}") from error
    except (redis.ConnectionError, redis.TimeoutError) as error:
        raise QueueUnavailable(
            f"Redis at {address(url)} cannot be reached ({error}); start it with `rushes up`, or set {URL_VARIABLE}"
        ) from error
    except redis.RedisError as error:
        raise QueueUnavailable(f"Redis at {address(url)} refuses: {error}") from error


def address(url: str | None) -> str:
    """The address that `connect(url)` uses, without its password."""
    return shown(url or os.environ.get(URL_VARIABLE) or DEFAULT_URL)
