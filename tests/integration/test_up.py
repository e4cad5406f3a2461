"""`rushes up` as a person runs it: real Valkey, real API, a real worker."""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from rushes.client.client import Client
from rushes.errors import ConfigError
from rushes_service.cli import up
from rushes_service.cli.up import devices_of
from rushes_service.settings import Settings, load_settings, xdg
from support import alive, wait_until

START_S = 90.0
"""A worker imports PyTorch; on a busy machine that takes a while."""


class Up:
    """A running `rushes up`."""

    def __init__(self, state_dir: Path) -> None:
        self.port = free_port()
        self.log = state_dir / "up.log"
        command = [sys.executable, "-m", "rushes", "up", "--devices", "cpu"]
        command += ["--port", str(self.port), "--state-dir", str(state_dir)]
        environment = {key: value for key, value in os.environ.items() if not key.startswith("RUSHES_")}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)

    @property
    def url(self) -> str:
        """Address of its Redis, out of the table that it prints."""
        return wait_until(self._url, START_S, "the table")

    def _url(self) -> str | None:
        return next((word for word in self.text().split() if word.startswith("redis://")), None)

    def text(self) -> str:
        """All that it has printed."""
        return self.log.read_text()

    def child(self, word: str) -> psutil.Process:
        """Its child whose command line holds `word`."""
        return wait_until(
            lambda: next((child for child in self.children() if word in child.cmdline()), None), START_S, word
        )

    def children(self) -> list[psutil.Process]:
        """Its living children."""
        return [child for child in psutil.Process(self.process.pid).children() if alive(child.pid)]

    def ready(self) -> bool:
        """True when the API reaches Redis."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/readyz", timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def workers(self) -> int:
        """How many workers have reported to Redis."""
        client = Client(self.url)
        try:
            return len(client.workers())
        finally:
            client.close()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Up]:
    up = Up(tmp_path)
    yield up
    if up.process.poll() is None:
        up.process.kill()
        up.process.wait()


def test_one_command_serves_survives_and_leaves_nothing_behind(running: Up) -> None:
    wait_until(running.ready, START_S, "the API")
    wait_until(lambda: running.workers() == 1, START_S, "the worker's report")

    worker = running.child("worker")
    worker.kill()
    wait_until(lambda: "killed by SIGKILL" in running.text(), 20, "the reason of the restart")
    wait_until(lambda: running.child("worker").pid != worker.pid, START_S, "a new worker")

    server = next(child for child in running.children() if "valkey" in child.name() or "redis" in child.name())
    server.kill()
    wait_until(lambda: "starting it again with its data" in running.text(), 20, "the server's restart")
    wait_until(running.ready, START_S, "the API with the new server")

    pids = [child.pid for child in running.children()]
    running.process.send_signal(signal.SIGINT)
    assert running.process.wait(START_S) == 0
    assert len(pids) == 3
    assert not any(alive(pid) for pid in pids)


def test_a_redis_of_your_own_is_used_and_no_other_started(tmp_path: Path) -> None:
    arguments = ["up", "--redis-url", f"redis://:secret@127.0.0.1:{free_port()}/0", "--devices", "cpu", "--port", "0"]
    done = subprocess.run(
        [sys.executable, "-m", "rushes", *arguments, "--state-dir", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "cannot be reached" in done.stderr
    assert "do without --redis-url and RUSHES_REDIS_URL" in done.stderr
    assert "`rushes up`" not in done.stderr  # that is what was just tried
    assert "secret" not in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_an_address_that_came_out_empty_counts_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUSHES_REDIS_URL", "redis://elsewhere:6379/0")
    assert load_settings(redis_url="").redis_url == "redis://elsewhere:6379/0"


def test_a_user_without_a_home_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setattr(Path, "home", Path("~no-such-user").expanduser)  # as of a user id that has no entry
    with pytest.raises(ConfigError, match="set HOME, or XDG_CACHE_HOME"):
        xdg("XDG_CACHE_HOME", ".cache")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--devices", "cuda"], "cuda is no device"),
        (["--devices", "gpu0,tpu"], "gpu0, tpu is no device"),
        (["--devices", "cuda:0,cuda:0"], "named twice"),
        (["--devices", "cpu", "--host", "0.0.0.0"], "RUSHES_TOKEN"),
        (["--devices", "cpu", "--port", "99999"], "port"),
        (["--devices", "cpu", "--host", "192.0.2.1"], "192.0.2.1"),
    ],
)
def test_wrong_flags_are_refused_before_anything_is_started(
    flags: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RUSHES_TOKEN", raising=False)
    with pytest.raises(ConfigError, match=message):
        run_up(flags, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"127.0.0.1:{port}.*another --port"):
            run_up(["--devices", "cpu", "--port", str(port)], tmp_path)


def test_auto_without_a_gpu_is_one_cpu_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert up.devices_of("auto") == ["cpu"]


@pytest.mark.parametrize(
    ("visible", "device", "alone"),
    [
        (None, "cuda:1", "1"),
        ("2,3", "cuda:1", "3"),
        ("GPU-aaaa, MIG-bbbb", "cuda:1", "MIG-bbbb"),
        ("0", "cuda:1", None),
        ("", "cuda:0", None),
        ("0,1", "cpu", None),
    ],
)
def test_a_worker_sees_its_own_gpu_alone_and_calls_it_by_its_place(
    visible: str | None, device: str, alone: str | None
) -> None:
    environment = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    assert up.visible_alone(device, environment) == alone
    assert up.visible_alone(device, {**environment, "HIP_VISIBLE_DEVICES": "0"}) is None


def test_workers_are_started_with_their_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    api, first, second, cpu = up.programs(Settings(), "redis://here", ["cuda:0", "cuda:1", "cpu"])
    assert "CUDA_VISIBLE_DEVICES" not in api.environment
    for worker, visible, name in ((first, "4", "cuda:0"), (second, "7", "cuda:1")):
        assert worker.command[-2:] == ("--device", "cuda:0")
        assert worker.environment["CUDA_VISIBLE_DEVICES"] == visible
        assert worker.environment["RUSHES_SHOWN_DEVICE"] == name
        assert worker.name == f"worker {name}"
    assert cpu.command[-2:] == ("--device", "cpu")
    assert "CUDA_VISIBLE_DEVICES" not in cpu.environment
    both = up.programs(Settings(decode_device="cuda:1"), "redis://here", ["cuda:0"])[1]
    assert both.command[-2:] == ("--device", "cuda:0")
    assert "CUDA_VISIBLE_DEVICES" not in both.environment


def test_a_worker_is_known_by_the_name_it_is_given(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, redis_url: str
) -> None:
    """A real one, which ends when the queue is empty."""
    command = [sys.executable, "-m", "rushes", "worker", "--dry-run", "--until-empty", "--redis-url", redis_url]
    environment = {**os.environ, "RUSHES_SHOWN_DEVICE": "cuda:3"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert "ready on cuda:3" in done.stderr


def run_up(flags: list[str], state_dir: Path) -> int:
    parser = argparse.ArgumentParser()
    up.add_arguments(parser)
    return up.run(parser.parse_args([*flags, "--state-dir", str(state_dir)]))


def test_gpus_that_cannot_be_asked_are_an_error_and_no_worker_on_the_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('the driver is too old')")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    with pytest.raises(ConfigError, match=r"cannot be asked: .*the driver is too old.*--devices cpu"):
        devices_of("auto")
    assert devices_of("cpu") == ["cpu"]
