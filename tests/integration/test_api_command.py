"""`rushes api` as a process."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from rushes.errors import ConfigError
from rushes_service.cli.api import listen, place
from rushes_service.processes.embedded_redis import EmbeddedRedis

START = """
import argparse, sys
from rushes.errors import RushesError
from rushes_service.cli import api
parser = argparse.ArgumentParser()
api.add_arguments(parser)
try:
    sys.exit(api.run(parser.parse_args()))
except RushesError as error:
    sys.exit(str(error))
"""


@contextmanager
def running(directory: Path, *flags: str, **variables: str) -> Iterator[subprocess.Popen[str]]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RUSHES_")}
    process = subprocess.Popen(
        [sys.executable, "-c", START, *flags],
        cwd=directory,
        env={**environment, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_it_says_where_it_is_and_stops_cleanly_with_a_browser_listening(tmp_path: Path, stop: signal.Signals) -> None:
    with (
        EmbeddedRedis(tmp_path, 0) as server,
        running(tmp_path, "--port", "0", "--redis-url", server.url) as process,
    ):
        assert process.stdout is not None
        match = re.search(r"http://127\.0\.0\.1:\d+", process.stdout.readline())
        assert match is not None
        with httpx.stream("GET", f"{match.group()}/v1/events", timeout=120) as response:
            assert "ready" in next(response.iter_text())
            process.send_signal(stop)
            _, errors = process.communicate(timeout=120)

    assert process.returncode == 0
    assert errors == ""


def test_the_token_does_not_reach_the_log(tmp_path: Path) -> None:
    with running(tmp_path, "--port", "0", RUSHES_TOKEN="very-secret") as process:
        assert process.stdout is not None
        url = process.stdout.readline().split()[3]
        assert httpx.get(f"{url}/?token=very-secret", timeout=120).status_code == 303
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=120)

    assert "very-secret" not in output + errors


@pytest.mark.parametrize(
    ("flags", "variables", "words"),
    [
        (["--host", "0.0.0.0"], {}, "RUSHES_TOKEN"),
        (["--port", "99999"], {}, "port"),
        ([], {"RUSHES_PORT": "many"}, "port"),
        (["--redis-url", "mysql://x"], {}, "not a Redis URL"),
        (["--host", "203.0.113.7"], {"RUSHES_TOKEN": "x"}, "cannot listen on 203.0.113.7"),
    ],
)
def test_a_wrong_setting_is_one_sentence(
    tmp_path: Path, flags: list[str], variables: dict[str, str], words: str
) -> None:
    with running(tmp_path, *flags, **variables) as process:
        _, errors = process.communicate(timeout=120)

    assert process.returncode == 1
    assert words in errors
    assert "Traceback" not in errors


def test_a_port_in_use_is_one_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port}: Address already in use; choose another"):
            listen("127.0.0.1", port)


def test_a_container_does_not_tell_its_own_name_as_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("container", "podman")
    with listen("0.0.0.0", 0) as everywhere, listen("127.0.0.1", 0) as here:
        told, port = place(everywhere), everywhere.getsockname()[1]
        assert socket.gethostname() not in told
        assert f"port {port} of this container" in told
        assert "token=" in told
        assert place(here).startswith("http://127.0.0.1:")
