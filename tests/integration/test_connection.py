"""Addresses of Redis: with a password, in TLS, behind Sentinels; and what is said of one that cannot be used."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy_support import encrypted
from rushes.client import Client
from rushes.connection import connect, connect_async, shown
from rushes.errors import ConfigError, QueueUnavailable
from valkey_support import LOCALHOST, PRIMARY, Server, server, watched_pair

PASSWORD = "p@ss/w:rd"
QUOTED = "p%40ss%2Fw%3Ard"


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Server]:
    """A server that asks for a password."""
    with server(tmp_path / "redis", "--requirepass", PASSWORD) as running:
        yield running


def ping(url: str) -> None:
    with contextlib.closing(Client(url, retries=0)) as client:
        client.ping()


def test_a_password_is_part_of_the_url(guarded: Server) -> None:
    ping(f"redis://:{QUOTED}@{LOCALHOST}:{guarded.port}/0")


@pytest.mark.parametrize("login", ["", ":wrong@"])
def test_a_wrong_password_is_said_and_not_shown(guarded: Server, login: str) -> None:
    with pytest.raises(QueueUnavailable, match=r"refuses") as caught:
        ping(f"redis://{login}{LOCALHOST}:{guarded.port}/0")
    assert "wrong" not in str(caught.value)


def test_tls_with_an_authority_of_ones_own(guarded: Server, tmp_path: Path) -> None:
    with encrypted(guarded.port, tmp_path) as (proxy, authority):
        place = proxy.url.replace("://", f"://:{QUOTED}@")
        ping(f"{place}?ssl_ca_certs={authority}")
        with pytest.raises(QueueUnavailable, match="certificate verify failed"):
            ping(place)


def test_a_file_of_certificates_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no file /nowhere/ca\.pem"):
        connect("rediss://localhost:1/0?ssl_ca_certs=/nowhere/ca.pem")


@pytest.mark.parametrize(
    "url",
    [
        "http://localhost",
        "redis://localhost:many/0",
        "redis://localhost?sockett_timeout=3",
        "redis+sentinel://localhost:26379",
        "redis+sentinel:///studio",
        "redis+sentinel://localhost:many/studio",
        "redis+sentinel://localhost/studio?ssll=1",
    ],
)
def test_what_is_no_url_is_refused_before_anything_is_sent(url: str) -> None:
    for make in (connect, connect_async):
        with pytest.raises(ConfigError, match="is not a Redis URL"):
            make(url)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("redis://:secret@host:1/0", "redis://:***@host:1/0"),
        ("redis://me:s@cret@host/0", "redis://me:***@host/0"),
        ("redis://host/0?password=secret", "redis://host/0?password=***"),
        (
            "redis+sentinel://:secret@a,b/studio/0?sentinel_password=secret&ssl_ca_certs=ca.pem",
            "redis+sentinel://:***@a,b/studio/0?sentinel_password=***&ssl_ca_certs=ca.pem",
        ),
    ],
)
def test_no_message_shows_a_password(url: str, said: str) -> None:
    assert shown(url) == said


def test_sentinels_lead_to_the_primary_in_both_kinds_of_client(tmp_path: Path) -> None:
    with watched_pair(tmp_path / "pair") as (primary, _, sentinel):
        url = f"redis+sentinel://{LOCALHOST}:1,{LOCALHOST}:{sentinel.port}/{PRIMARY}/0"
        ping(url)

        async def role() -> str:
            async with connect_async(url) as redis:
                await redis.set("a", "b")
                return (await redis.info("replication"))["role"]

        assert asyncio.run(role()) == "master"
        assert primary.connection.get("a") == "b"


def test_a_primary_that_no_sentinel_knows_is_an_outage_that_says_so(tmp_path: Path) -> None:
    unknown = pytest.raises(QueueUnavailable, match="No master found for 'studio'")
    with server(tmp_path / "s", "--sentinel") as sentinel, unknown:
        ping(f"redis+sentinel://{LOCALHOST}:{sentinel.port}/{PRIMARY}")
