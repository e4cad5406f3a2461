"""Real worker processes for acceptance tests."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from forked_support import Forked

PROGRAMS = Path(__file__).parent / "programs"


class Workers:
    """Starts workers on one Redis and ends every one of them at the end."""

    def __init__(self, redis_url: str, directory: Path, **settings: str) -> None:
        self.directory = directory
        self.environment = {
            **os.environ,
            "RUSHES_REDIS_URL": redis_url,
            "RUSHES_CACHE_DIR": str(directory / "cache"),
            "RUSHES_HEARTBEAT_S": "0.1",
            "RUSHES_LEASE_S": "5",
            "RUSHES_RETRY_DELAY_S": "0.1",
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
            **settings,
        }
        self.started: list[subprocess.Popen[bytes] | Forked] = []

    def start(self, *arguments: str, **settings: str) -> subprocess.Popen[bytes] | Forked:
        """A worker: one that samples is forked, one that only paints imports little and is started as users do."""
        words = ("worker", "--device", "cpu", *arguments)
        if "--dry-run" not in arguments:
            return self.fork("rushes", *words, **settings)
        with self.new_log().open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "rushes", *words],
                env={**self.environment, **settings},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.started.append(process)
        return process

    def program(self, name: str, **settings: str) -> Forked:
        """One of the small programs beside these tests."""
        return self.fork(str(PROGRAMS / name), str(self.directory / "cache"), **settings)

    def fork(self, program: str, *arguments: str, **settings: str) -> Forked:
        """A program, or a module, with PyTorch and diffusers already imported."""
        process = Forked(program, arguments, {**self.environment, **settings}, self.new_log())
        self.started.append(process)
        return process

    def new_log(self) -> Path:
        """Where the next process writes."""
        return self.directory / f"worker-{len(self.started)}.log"

    def logs(self) -> str:
        """What all workers have said."""
        return "\n".join(path.read_text() for path in sorted(self.directory.glob("worker-*.log")))

    def end(self) -> None:
        """Kill what still lives."""
        for process in self.started:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
            process.wait(30)


@contextmanager
def workers(redis_url: str, directory: Path, **settings: str) -> Iterator[Workers]:
    """Workers that end with the test."""
    pool = Workers(redis_url, directory, **settings)
    try:
        yield pool
    finally:
        pool.end()
