"""The demo's child processes: started, logged, watched, and ended with the demo however it ends."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rushes.errors import RushesError
from rushes_service.processes.child import describe_exit
from rushes_service.processes.parent_death import dying_with_parent

GRACE_S = 10.0
"""How long a child may take to end after SIGTERM before it is killed."""

LOG_TAIL_LINES = 15


class Process:
    """`python -m <arguments>` in a process of its own; its output goes to `log`, and to `on_line` line by line."""

    def __init__(
        self,
        name: str,
        arguments: Sequence[str],
        *,
        log: Path,
        environment: Mapping[str, str],
        on_line: Callable[[str], None] | None = None,
    ) -> None:
        self.name = name
        self.log = log
        self._popen = subprocess.Popen(
            dying_with_parent([sys.executable, "-m", *arguments]),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**inherited(), **environment, "PYTHONUNBUFFERED": "1"},
            text=True,
            errors="replace",
            start_new_session=True,  # Ctrl-C in the terminal is for the demo, which then ends its children in order
        )
        self._reader = threading.Thread(target=self._read, args=(on_line,), daemon=True)
        self._reader.start()

    @property
    def exit_code(self) -> int | None:
        """None while it runs; once it is set, every line has been read."""
        code = self._popen.poll()
        if code is not None:
            self._reader.join(GRACE_S)
        return code

    def check(self) -> None:
        """Raise `RushesError`, with the end of its log, if it has ended by itself."""
        if self.exit_code is not None:
            raise RushesError(self.obituary())

    def obituary(self) -> str:
        """How it ended, with the end of its log."""
        code = self.exit_code
        how = "is running" if code is None else f"ended ({describe_exit(code)})"
        lines = self.log.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:]
        return "\n    ".join([f"the {self.name} {how}; its log {self.log} ends with:", *lines])

    def terminate(self) -> None:
        """Ask it to end."""
        if self._popen.poll() is None:
            self._popen.terminate()

    def wait(self) -> None:
        """Wait until it has ended; after `GRACE_S` kill it and its children."""
        try:
            self._popen.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._popen.pid, signal.SIGKILL)
            self._popen.wait()
        self._reader.join(GRACE_S)

    def _read(self, on_line: Callable[[str], None] | None) -> None:
        assert self._popen.stdout is not None
        with self.log.open("w") as log, self._popen.stdout as output:
            for line in output:
                log.write(line)
                log.flush()
                if on_line is not None:
                    on_line(line.rstrip())


def inherited() -> dict[str, str]:
    """The caller's environment without its Rushes settings, which are meant for another server than the demo's."""
    return {name: value for name, value in os.environ.items() if not name.startswith("RUSHES_")}


class Processes:
    """The children of one demo, as a context manager: none of them outlives it."""

    def __init__(self, log_dir: Path, environment: Mapping[str, str]) -> None:
        self._log_dir = log_dir
        self._environment = environment
        self._started: list[Process] = []

    def start(self, name: str, *arguments: str, on_line: Callable[[str], None] | None = None) -> Process:
        """Start `python -m <arguments>`."""
        log = self._log_dir / f"{name}.log"
        process = Process(name, arguments, log=log, environment=self._environment, on_line=on_line)
        self._started.append(process)
        return process

    def __enter__(self) -> Processes:
        self._log_dir.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, *exception: object) -> None:
        for process in self._started:
            process.terminate()
        for process in self._started:
            process.wait()
