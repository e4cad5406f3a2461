"""What redis-py has and does not document."""

from __future__ import annotations

from typing import Any, cast

from redis import connection


def parse_url(url: str) -> dict[str, Any]:
    """Options of a client for `url`, with their types: what `Redis.from_url` makes of it.

    Raises:
        ValueError: it is no Redis URL.
    """
    return cast("Any", connection).parse_url(url)


def check_options(client: Any) -> None:
    """Make a connection object without connecting it: redis-py checks the options of a client only there.

    Raises:
        TypeError, ValueError: an option does not exist, or has a wrong value.
    """
    client.connection_pool.make_connection()


def connection_options(client: Any) -> dict[str, Any]:
    """The options with which a client connects."""
    return client.connection_pool.connection_kwargs
