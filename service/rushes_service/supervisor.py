"""Keeps a handful of child processes alive, passes on what they print, and ends them all.

One thread and one loop: it sleeps until a child prints, a child ends, a signal comes or a restart is due.
Every child leads its own session, so that Ctrl-C reaches the supervisor alone, and is tied to the supervisor's life.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from rushes_service.tether import tethered

FIRST_DELAY_S = 1.0
LONGEST_DELAY_S = 30.0
HEALTHY_AFTER_S = 60.0
"""A child that lived this long was well; its next restart is as quick as the first."""

WRONG_USAGE = 2
"""Exit code of a command with wrong flags or settings: starting it again changes nothing."""

DOUBLE_SIGNAL_S = 0.5
"""Wrappers (`uv run`, `npm`) pass on a Ctrl-C that the terminal sent to us as well: that is one Ctrl-C, not two."""

READ_BYTES = 65536
LONGEST_LINE_BYTES = 65536

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

Say = Callable[[str, str], None]
"""Prints one line: the name of who says it, and the text."""


@dataclass(frozen=True)
class Program:
    """What to run: a short name for people, the command, and what to add to the environment."""

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

    def __init__(self, program: Program, say: Say) -> None:
        self.name = program.name
        self.restart_at: float | None = None
        self._program = program
        self._say = say
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
            tethered(self._program.command),
            env={**os.environ, "PYTHONUNBUFFERED": "1", **self._program.environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        os.set_blocking(self.output, False)

    def read(self) -> bool:
        """Pass on what it printed; False at the end of its output."""
        try:
            chunk = os.read(self.output, READ_BYTES)
        except BlockingIOError:
            return True
        *lines, self._partial = (self._partial + chunk).split(b"\n")
        if self._partial and (not chunk or len(self._partial) > LONGEST_LINE_BYTES):
            lines, self._partial = [*lines, self._partial], b""
        for line in lines:
            self._say(self.name, line.decode(errors="replace").rstrip("\r").rsplit("\r", 1)[-1])
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
        self._say(self.name, f"ended after {lived:.0f} s ({describe_exit(code)}); starting it again in {delay:g} s")

    def signal(self, signum: int) -> None:
        """Send `signum` to it and to all that it started."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signum)

    def terminate(self) -> None:
        """Ask it to end. It passes that on to what it started, in the order it needs."""
        if self._process is not None:
            self._process.terminate()

    def _has_output(self) -> bool:
        with selectors.DefaultSelector() as selector:
            selector.register(self.output, selectors.EVENT_READ)
            return bool(selector.select(0))


class Supervisor:
    """Runs `programs` until a signal asks it to stop. Use it in the main thread, once.

    Args:
        programs: what to keep running.
        grace_s: seconds that children may take to end after SIGTERM.
        say: where their output and our own messages go.
        watch: called whenever the supervisor wakes, a child's end included; what it raises ends everything.
    """

    def __init__(
        self, programs: Sequence[Program], *, grace_s: float, say: Say, watch: Callable[[], None] = lambda: None
    ) -> None:
        self._children = [Child(program, say) for program in programs]
        self._grace_s = grace_s
        self._say = say
        self._watch = watch
        self._selector = selectors.DefaultSelector()
        self._stop_asked_at: float | None = None
        self._killing = False
        self._gave_up = False

    def run(self) -> int:
        """0 after a stop that was asked for, 1 if a child cannot run at all."""
        with woken_by_signals() as wake, self._selector:
            self._selector.register(wake, selectors.EVENT_READ)
            try:
                for child in self._children:
                    self._start(child)
                while self._stop_asked_at is None and not self._gave_up:
                    self._turn(self._seconds_to_restart())
                    self._restart_due()
                    self._watch()
            finally:
                self._end_all()
        return int(self._gave_up)

    def _start(self, child: Child) -> None:
        child.start()
        self._selector.register(child.output, selectors.EVENT_READ, child)

    def _turn(self, timeout_s: float | None) -> None:
        """Sleep until something happens, and deal with it."""
        for key, _ in self._selector.select(timeout_s):
            if isinstance(key.data, Child):
                if not key.data.read():  # closed, if not ended: select() would return at once for ever
                    self._selector.unregister(key.fd)
            else:
                assert isinstance(key.fileobj, socket.socket)
                self._heed(key.fileobj.recv(READ_BYTES))
        for child in self._children:
            self._reap(child)

    def _heed(self, signals: bytes) -> None:
        now = time.monotonic()
        for signum in signals:
            if signum not in STOP_SIGNALS:  # SIGCHLD: waking up was the point
                continue
            if self._stop_asked_at is None:
                self._stop_asked_at = now
            elif signum == signal.SIGINT and now - self._stop_asked_at > DOUBLE_SIGNAL_S:
                self._killing = True

    def _reap(self, child: Child) -> None:
        if not child.running:
            return
        output = child.output
        if (code := child.reap()) is None:
            return
        with contextlib.suppress(KeyError):
            self._selector.unregister(output)
        if self._stop_asked_at is not None or self._gave_up:
            return
        if code == WRONG_USAGE:
            self._gave_up = True
            self._say(child.name, "cannot run with these flags and settings (see above); stopping everything")
        else:
            child.schedule_restart(code)

    def _restart_due(self) -> None:
        for child in self._children:
            if child.restart_at is not None and child.restart_at <= time.monotonic():
                self._start(child)

    def _seconds_to_restart(self) -> float | None:
        due = [child.restart_at for child in self._children if child.restart_at is not None]
        return max(0.0, min(due) - time.monotonic()) if due else None

    def _end_all(self) -> None:
        """SIGTERM to all; SIGKILL to those that remain after the grace, or at a second Ctrl-C."""
        self._stop_asked_at = self._stop_asked_at or time.monotonic()
        for child in self._children:
            child.terminate()
        deadline = time.monotonic() + self._grace_s
        if names := self._running_names():
            self._say("rushes", f"stopping {names}: waiting up to {self._grace_s:g} s (Ctrl-C again does not wait)")
        while (names := self._running_names()) and not self._killing and time.monotonic() < deadline:
            self._turn(max(0.0, deadline - time.monotonic()))
        if names:
            self._say("rushes", f"killing {names}")
        while self._running_names():
            for child in self._children:
                child.signal(signal.SIGKILL)
            self._turn(1.0)

    def _running_names(self) -> str:
        return ", ".join(child.name for child in self._children if child.running)


@contextlib.contextmanager
def woken_by_signals() -> Iterator[socket.socket]:
    """A socket on which each stop signal, and each child's end, arrives as one byte: its number.

    Handlers themselves do nothing, so nothing runs at a moment that it does not expect.
    """
    wake, sender = socket.socketpair()
    with wake, sender:
        wake.setblocking(False)
        sender.setblocking(False)
        watched = (*STOP_SIGNALS, signal.SIGCHLD)
        handlers = {signum: signal.signal(signum, lambda *_: None) for signum in watched}
        descriptor = signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
        try:
            yield wake
        finally:
            signal.set_wakeup_fd(descriptor)
            for signum, handler in handlers.items():
                signal.signal(signum, handler)


def describe_exit(code: int) -> str:
    """`exit code 3` or `killed by SIGKILL`."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"
