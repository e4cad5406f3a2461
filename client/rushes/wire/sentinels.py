"""Redis behind Sentinels: whichever server is the primary now, under one URL.

    redis+sentinel://[[USER]:PASSWORD@]HOST:PORT[,HOST:PORT…]/NAME[/DB][?sentinel_password=…&…]

Login and options are those of the Redis servers; with `rediss+sentinel://` they and the Sentinels are spoken to in TLS.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl, unquote, urlencode

from rushes._compat.redis import parse_url

SCHEMES = {"redis+sentinel": "redis", "rediss+sentinel": "rediss"}
DEFAULT_PORT = 26379

SENTINEL_OPTIONS = ("sentinel_username", "sentinel_password")
"""Options of the URL that are for the Sentinels themselves."""

SHARED = ("socket_", "ssl", "retry")
"""Beginnings of options that hold for the Sentinels as for the servers: time-outs, further tries, TLS."""


def is_sentinel(url: str) -> bool:
    """True for a URL that names Sentinels."""
    return url.partition("://")[0].lower() in SCHEMES


def sentinel_primary(url: str, redis_class: Any, sentinel_class: Any, options: dict[str, Any]) -> Any:
    """A client for the primary: each new connection asks the Sentinels where it is.

    Raises:
        ValueError: the URL names no Sentinel or no primary.
    """
    scheme, _, rest = url.partition("://")
    place, _, query = rest.partition("?")
    login, at, place = place.rpartition("@")
    hosts, _, path = place.partition("/")
    name, _, database = path.strip("/").partition("/")
    if not name:
        raise ValueError("the name that the Sentinels give the primary is missing behind the hosts")
    own = {key: value for key, value in parse_qsl(query) if key in SENTINEL_OPTIONS}
    servers = urlencode([(key, value) for key, value in parse_qsl(query) if key not in SENTINEL_OPTIONS])
    # redis-py knows what is in the rest of a URL: options and their types, quoting, users.
    parsed = parse_url(f"{SCHEMES[scheme.lower()]}://{login}{at}localhost/{database or 0}?{servers}")
    for part in ("host", "connection_class"):
        parsed.pop(part, None)
    common = {**options, **parsed, **({"ssl": True} if scheme.lower() == "rediss+sentinel" else {})}
    asking = {key: value for key, value in common.items() if key.startswith(SHARED)}
    asking |= {key.removeprefix("sentinel_"): value for key, value in own.items()}
    sentinels = [address_of(host) for host in hosts.split(",")]
    sentinel = sentinel_class(sentinels, sentinel_kwargs={**asking, "decode_responses": True}, **common)
    return sentinel.master_for(unquote(name), redis_class=redis_class)


def address_of(host: str) -> tuple[str, int]:
    """Name and port of `HOST[:PORT]`, with brackets around an IPv6 address.

    Raises:
        ValueError: there is no name, or the port is no number.
    """
    name, colon, port = host.rpartition(":")
    if not colon or host.endswith("]"):
        name, port = host, str(DEFAULT_PORT)
    if not name.strip("[]"):
        raise ValueError(f"{host!r} is no HOST:PORT")
    return name.strip("[]"), int(port)
