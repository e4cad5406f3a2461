"""Connections to Redis: URLs, timeouts, retries, and the errors of an outage."""

from __future__ import annotations

import os
import re
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import redis
from redis.backoff import ExponentialBackoff
from redis.exceptions import OutOfMemoryError
from redis.retry import Retry

from rushes._compat.redis import check_options, connection_options
from rushes.errors import ConfigError, QueueUnavailable
from rushes.wire.sentinels import is_sentinel, sentinel_primary

LOOPBACK = ("localhost", "127.0.0.1", "::1")
DEFAULT_URL = "redis://127.0.0.1:6379/0"
URL_VARIABLE = "RUSHES_REDIS_URL"

CONNECT_TIMEOUT_S = 2.0
SOCKET_TIMEOUT_S = 10.0
"""Longer than any blocking read of ours."""

BLOCK_MS = 1000
"""How long one blocking read waits."""


SECRET_OPTION = re.compile(r"((?:^|[?&])(?:sentinel_)?password=)[^&]*")

Connection = Any
"""A `redis.Redis`; its own annotations are too loose for a strict checker."""


def connect(url: str | None = None, *, retries: int = 2) -> Connection:
    """A Redis client for `url`, else `RUSHES_REDIS_URL`, else a local server. Nothing is sent yet.

    The URL is `redis://`, `rediss://` (TLS, with `?ssl_ca_certs=FILE` for a certificate authority of your own),
    `unix://`, or `redis+sentinel://HOST:PORT,HOST:PORT/NAME/0` for the primary that Sentinels call NAME.

    Raises:
        ConfigError: the URL is not one.
    """
    from redis.sentinel import Sentinel

    return opened(url, redis.Redis, Sentinel, retry_policy(Retry, retries))


def connect_async(url: str | None = None) -> Connection:
    """As `connect`, for asyncio and without retries."""
    import redis.asyncio
    from redis.asyncio.retry import Retry as AsyncRetry
    from redis.asyncio.sentinel import Sentinel

    return opened(url, redis.asyncio.Redis, Sentinel, retry_policy(AsyncRetry, 0))


def retry_policy(kind: Any, retries: int) -> Any:
    """How often a command is sent again when the connection breaks, and after what pause (seconds)."""
    return kind(ExponentialBackoff(cap=1.0, base=0.05), retries)


def opened(url: str | None, redis_class: Any, sentinel_class: Any, retry: Any) -> Connection:
    """A client of one of redis-py's two kinds, blocking or asyncio.

    Raises:
        ConfigError: the URL is not one.
    """
    url = url or os.environ.get(URL_VARIABLE) or DEFAULT_URL
    options: dict[str, Any] = {
        "decode_responses": True,
        "protocol": 2,  # answers to XREAD have another shape in RESP3, which newer clients speak by default
        "socket_connect_timeout": CONNECT_TIMEOUT_S,
        "socket_timeout": SOCKET_TIMEOUT_S,
        "health_check_interval": 30,
        "retry": retry,
        "retry_on_error": [redis.ConnectionError, redis.TimeoutError],
    }
    try:
        if is_sentinel(url):
            client = sentinel_primary(url, redis_class, sentinel_class, options)
        else:
            client = redis_class.from_url(url, **options)
        check_options(client)
    except (ValueError, TypeError) as error:
        why = "" if "@" in url else f" ({error})"  # it may quote a piece of the password
        raise ConfigError(
            f"{shown(url)} is not a Redis URL{why}; write redis://HOST:PORT/0, rediss://… or "
            "redis+sentinel://HOST:PORT,HOST:PORT/NAME/0"
        ) from None
    check_authority(url, client)
    return client


def check_authority(url: str, client: Connection) -> None:
    """Raise `ConfigError` if the file of `?ssl_ca_certs=` does not exist; redis-py reports that at each connection."""
    file = connection_options(client).get("ssl_ca_certs")
    if file and not Path(file).is_file():
        raise ConfigError(f"{shown(url)}: there is no file {file} with the certificates of the authority")


def shown(url: str) -> str:
    """A URL for messages: without its passwords."""
    url = SECRET_OPTION.sub(r"\1***", url)
    scheme, _, rest = url.partition("://")
    login, _, place = rest.rpartition("@")
    user, colon, _ = login.partition(":")
    return f"{scheme}://{user}:***@{place}" if colon else url


@contextmanager
def reachable(url: str | None, *, advice: str | None = None) -> Generator[None]:
    """Turn errors of redis-py into `QueueUnavailable` with the address and what to do."""
    try:
        yield
    except redis.AuthenticationError as error:
        raise QueueUnavailable(f"Redis at {address(url)} refuses the login: {error}") from error
    except (redis.ConnectionError, redis.TimeoutError) as error:
        raise QueueUnavailable(
            f"Redis at {address(url)} cannot be reached ({error}); {advice or remedy(url)}"
        ) from error
    except OutOfMemoryError as error:
        raise QueueUnavailable(
            f"Redis at {address(url)} is full ({error}); raise its maxmemory, or forget old records with "
            "`rushes jobs purge --older-than DAYS`"
        ) from error
    except redis.RedisError as error:
        raise QueueUnavailable(f"Redis at {address(url)} refuses: {error}") from error


def remedy(url: str | None) -> str:
    """What to do about a Redis that cannot be reached: `rushes up` starts one on this machine alone."""
    try:
        host = urlsplit(address(url)).hostname
    except ValueError:
        host = None
    if host is None or host in LOOPBACK:
        return f"start it with `rushes up`, or set {URL_VARIABLE}"
    return f"is it running there? {URL_VARIABLE} or --rushes_url may name another"


def address(url: str | None) -> str:
    """The address that `connect(url)` uses, without its password."""
    return shown(url or os.environ.get(URL_VARIABLE) or DEFAULT_URL)
