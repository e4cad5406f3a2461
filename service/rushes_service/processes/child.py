"""A child process: started as often as it takes, its output passed on line by line."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from rushes_service.processes.parent_death import dying_with_parent

FIRST_DELAY_S = 1.0
LONGEST_DELAY_S = 30.0
HEALTHY_AFTER_S = 60.0
"""A child that lived this long was well; its next restart is as quick as the first."""

READ_BYTES = 65536
LONGEST_LINE_BYTES = 65536

PrintLine = Callable[[str, str], None]
"""Prints one line: the name of its source, and the text."""


@dataclass(frozen=True)
class Program:
    """A program to run: a short name, the command, and additions to the environment."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)


class Backoff:
    """How long to wait before a restart: 1 s, doubling to 30 s, and 1 s again after a healthy life."""

    def __init__(self) -> None:
        self._next = FIRST_DELAY_S

    def after(self, lifetime_s: float) -> float:
        """Seconds to wait after a life of `lifetime_s` seconds."""
        if lifetime_s >= HEALTHY_AFTER_S:
            self._next = FIRST_DELAY_S
        delay = self._next
        self._next = min(2 * self._next, LONGEST_DELAY_S)
        return delay


class Child:
    """One program, started as often as it takes."""

    def __init__(self, program: Program, print_line: PrintLine) -> None:
        self.name = program.name
        self.restart_at: float | None = None
        self._program = program
        self._print_line = print_line
        self._backoff = Backoff()
        self._process: subprocess.Popen[bytes] | None = None
        self._started = 0.0
        self._partial = b""

    @property
    def running(self) -> bool:
        """True from `start` until `reap` has seen it end."""
        return self._process is not None

    @property
    def output(self) -> int:
        """Descriptor of its standard output and error."""
        assert self._process is not None and self._process.stdout is not None
        return self._process.stdout.fileno()

    def start(self) -> None:
        """Run the program."""
        self.restart_at = None
        self._partial = b""
        self._started = time.monotonic()
        self._process = subprocess.Popen(
            dying_with_parent(self._program.command),
            env={**os.environ, "PYTHONUNBUFFERED": "1", **self._program.environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        os.set_blocking(self.output, False)

    def read(self) -> bool:
        """Pass its output on; False at the end of its output."""
        try:
            chunk = os.read(self.output, READ_BYTES)
        except BlockingIOError:
            return True
        *lines, self._partial = (self._partial + chunk).split(b"\n")
        if self._partial and (not chunk or len(self._partial) > LONGEST_LINE_BYTES):
            lines, self._partial = [*lines, self._partial], b""
        for line in lines:
            self._print_line(self.name, line.decode(errors="replace").rstrip("\r").rsplit("\r", 1)[-1])
        return bool(chunk)

    def reap(self) -> int | None:
        """Its exit code, once, if it has ended; whatever it left in its session is killed."""
        if self._process is None or (code := self._process.poll()) is None:
            return None
        self.signal(signal.SIGKILL)
        while self.read() and self._has_output():
            pass
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._process = None
        return code

    def schedule_restart(self, code: int) -> None:
        """Plan the next start and say why it is needed."""
        lived = time.monotonic() - self._started
        delay = self._backoff.after(lived)
        self.restart_at = time.monotonic() + delay
        self._print_line(
            self.name, f"ended after {lived:.0f} s ({describe_exit(code)}); starting it again in {delay:g} s"
        )

    def signal(self, signum: int) -> None:
        """Send `signum` to it and to all that it started."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signum)

    def terminate(self) -> None:
        """Send SIGTERM to it alone: it ends its own children in the order it needs."""
        if self._process is not None:
            self._process.terminate()

    def _has_output(self) -> bool:
        with selectors.DefaultSelector() as selector:
            selector.register(self.output, selectors.EVENT_READ)
            return bool(selector.select(0))


def describe_exit(code: int) -> str:
    """`exit code 3` or `killed by SIGKILL`."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"
