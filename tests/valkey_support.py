"""Valkey servers with options of their own, and Sentinels."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import redis

from rushes_service.processes.embedded_redis import server_binary
from support import wait_until

LOCALHOST = "127.0.0.1"
PRIMARY = "studio"
"""What the Sentinels of these tests call their primary."""


@dataclass
class Server:
    """A running server process."""

    port: int
    process: subprocess.Popen[bytes]

    @property
    def connection(self) -> redis.Redis:
        """A plain connection, past everything that is under test."""
        return redis.Redis(LOCALHOST, self.port, decode_responses=True)

    def end(self) -> None:
        """Kill it."""
        self.process.kill()
        self.process.wait(60)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind((LOCALHOST, 0))
        return probe.getsockname()[1]


@contextmanager
def server(directory: Path, *options: str, configuration: str = "", wait: bool = True) -> Iterator[Server]:
    """A server in `directory`; `configuration` goes to a file that it may rewrite."""
    directory.mkdir()
    port = free_port()
    config = directory / "server.conf"
    config.write_text(f"bind {LOCALHOST}\nport {port}\ndir {directory}\n{configuration}")
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen([server_binary(), str(config), *options], stdout=log, stderr=subprocess.STDOUT)
    running = Server(port, process)
    try:
        if wait:
            wait_until(lambda: answers(running), 20, "the server to answer")
        yield running
    finally:
        running.end()


def answers(server: Server) -> bool:
    try:
        with server.connection as connection:
            return bool(connection.ping())
    except redis.AuthenticationError:
        return True
    except redis.ConnectionError:
        return False


@contextmanager
def watched_pair(directory: Path) -> Iterator[tuple[Server, Server, Server]]:
    """A primary, its replica, and a Sentinel that makes the replica the primary soon after the first has died."""
    directory.mkdir()
    with server(directory / "a") as primary:
        replica_of = f"replicaof {LOCALHOST} {primary.port}\nrepl-diskless-sync-delay 0\n"
        watching = (
            f"sentinel monitor {PRIMARY} {LOCALHOST} {primary.port} 1\n"
            f"sentinel down-after-milliseconds {PRIMARY} 5000\n"
            f"sentinel failover-timeout {PRIMARY} 3000\n"
        )
        with (
            server(directory / "b", configuration=replica_of) as replica,
            server(directory / "s", "--sentinel", configuration=watching) as sentinel,
        ):
            wait_until(lambda: replica.connection.info()["master_link_status"] == "up", 30, "the replica's link")
            known = lambda: sentinel.connection.execute_command("SENTINEL", "REPLICAS", PRIMARY)  # noqa: E731
            wait_until(known, 30, "the Sentinel to know the replica")
            yield primary, replica, sentinel
