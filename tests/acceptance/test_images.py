"""What the containers run, run outside of them: each service's command, then its health check."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml

from rushes_service.processes.embedded_redis import server_binary
from support import wait_until
from valkey_support import free_port

COMPOSE = Path(__file__).parents[2] / "docker-compose.yml"
START_S = 60.0
RUSHES = (sys.executable, "-m", "rushes")


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def service(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())["services"][name]
    return found


def started(stack: ExitStack, command: list[str], **environment: str) -> None:
    """Run a command until the end of the test."""
    process = subprocess.Popen(command, env={**os.environ, **environment}, stdout=subprocess.DEVNULL)

    def end() -> None:
        process.terminate()
        assert process.wait(30) == 0

    stack.callback(end)


def well(name: str, port: str = "", **environment: str) -> bool:
    """Whether a service's own health check passes."""
    _, program, *arguments = service(name)["healthcheck"]["test"]
    programs = {"rushes": RUSHES, "python": (sys.executable,)}
    command = [*programs[program], *(word.replace("8720", port) for word in arguments)]
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, check=False)
    return done.returncode == 0


def test_redis_takes_its_options_and_the_worker_on_it_becomes_healthy(stack: ExitStack, tmp_path: Path) -> None:
    port = str(free_port())
    _, *options = service("redis")["command"]
    started(stack, [server_binary(), "--port", port, "--dir", str(tmp_path), *options])
    url = f"redis://127.0.0.1:{port}/0"
    ready = lambda: well("worker-0", RUSHES_REDIS_URL=url)  # noqa: E731
    assert not ready()
    _, *arguments = service("worker-0")["command"]
    here = ["cpu" if word == "cuda:0" else word for word in arguments]
    started(stack, [*RUSHES, "worker", *here, "--dry-run"], RUSHES_REDIS_URL=url)
    wait_until(ready, START_S, "a healthy worker")


def test_the_api_becomes_healthy(stack: ExitStack, redis_url: str) -> None:
    port = str(free_port())
    command = [port if word == "8720" else word for word in service("api")["command"]]
    assert not well("api", port)
    started(stack, [*RUSHES, *command], RUSHES_REDIS_URL=redis_url, RUSHES_TOKEN="a-long-enough-token-for-a-test")
    wait_until(lambda: well("api", port), START_S, "a healthy API")
