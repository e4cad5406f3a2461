"""Addresses of Redis: with a password, in TLS, behind Sentinels; and what is said of one that cannot be used."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.exceptions import ResponseError

from proxy_support import encrypted
from rushes.client.client import Client
from rushes.errors import ConfigError, QueueUnavailable
from rushes.wire.connection import URL_VARIABLE, connect, connect_async, remedy, shown
from rushes_service.processes.embedded_redis import EmbeddedRedis
from support import wait_until
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


def test_commands_sent_together_go_to_the_primary_and_follow_it(tmp_path: Path) -> None:
    with watched_pair(tmp_path / "pair") as (primary, replica, sentinel):
        url = f"redis+sentinel://{LOCALHOST}:{sentinel.port}/{PRIMARY}?socket_timeout=3"
        with contextlib.closing(connect(url, retries=0)) as client:
            assert together(client, ("SET", "on", "the primary"), ("WAIT", 1, 2000)) == [True, 1]
            assert primary.connection.get("on") == "the primary"
            primary.connection.client_pause(60_000, all=False)
            with pytest.raises(redis.TimeoutError):
                together(client, ("SET", "too", "late"))
            primary.connection.client_unpause()
            assert together(client, ("ECHO", "not that answer")) == ["not that answer"]
            primary.end()
            wait_until(lambda: answered(client, "SET", "on", "the replica"), 30, "the new primary")
        assert replica.connection.get("on") == "the replica"


def together(client: Any, *commands: tuple[Any, ...]) -> list[Any]:
    """Answers to commands that are sent at once."""
    pipeline = client.pipeline(transaction=False)
    for command in commands:
        pipeline.execute_command(*command)
    return pipeline.execute()


def answered(client: Any, *command: str) -> bool:
    with contextlib.suppress(redis.RedisError):
        return together(client, command) == [True]
    return False


def test_a_primary_that_no_sentinel_knows_is_an_outage_that_says_so(tmp_path: Path) -> None:
    unknown = pytest.raises(QueueUnavailable, match="No master found for 'studio'")
    with server(tmp_path / "s", "--sentinel") as sentinel, unknown:
        ping(f"redis+sentinel://{LOCALHOST}:{sentinel.port}/{PRIMARY}")


@pytest.fixture
def client(redis_server: EmbeddedRedis) -> Iterator[Any]:
    """A connection without retries: what fails once has failed."""
    made = connect(redis_server.url, retries=0)
    yield made
    made.close()


def test_a_connection_that_the_server_closed_while_it_was_idle_is_no_outage(
    client: Any, redis_server: EmbeddedRedis
) -> None:
    assert together(client, ("ECHO", "before"), ("ECHO", "together")) == ["before", "together"]
    assert connect(redis_server.url).client_kill_filter(_type="normal", skipme=True)
    assert together(client, ("ECHO", "after")) == ["after"]


def test_what_was_to_be_read_after_a_refusal_is_nobody_elses_answer(client: Any) -> None:
    with pytest.raises(ResponseError, match="unknown command"):
        together(client, ("NO_SUCH_COMMAND",), ("ECHO", "late"))
    assert together(client, ("ECHO", "next")) == ["next"]


def test_threads_that_ask_at_once_get_their_own_answers(client: Any) -> None:
    asked = [f"{number}" for number in range(400)]
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(lambda text: together(client, ("ECHO", text))[0], asked)) == asked


def test_a_forked_child_has_a_connection_of_its_own(client: Any) -> None:
    (parents,) = together(client, ("CLIENT", "ID"))

    def asks() -> None:
        raise SystemExit(0 if together(client, ("CLIENT", "ID")) != [parents] else 1)

    child = multiprocessing.get_context("fork").Process(target=asks)
    child.start()
    child.join()
    assert child.exitcode == 0
    assert together(client, ("CLIENT", "ID")) == [parents]


@pytest.mark.parametrize(
    ("url", "local"),
    [
        ("redis://127.0.0.1:1/0", True),
        ("redis://localhost:1/0", True),
        ("redis://[::1]:1/0", True),
        ("unix:///tmp/x.sock", True),
        ("redis://redis:6379/0", False),
        ("rediss://:secret@10.0.0.5:6379/0", False),
    ],
)
def test_rushes_up_is_advised_only_for_a_redis_of_this_machine(url: str, local: bool) -> None:
    assert ("rushes up" in remedy(url)) is local
    assert URL_VARIABLE in remedy(url)
