"""Keeps a few child processes alive, passes their output on, and ends them all.

One thread and one loop: it sleeps until a child prints, a child ends, a signal comes or a restart is due.
Every child leads its own session, so that Ctrl-C reaches the supervisor alone, and is tied to the supervisor's life.
"""

from __future__ import annotations

import contextlib
import selectors
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence

from rushes_service.processes.child import READ_BYTES, Child, PrintLine, Program

WRONG_USAGE = 2
"""Exit code of a command with wrong flags or settings: starting it again changes nothing."""

ENDED_AS_ASKED = 0
"""Exit code of a worker that was drained on request."""

DOUBLE_SIGNAL_S = 0.5
"""Wrappers (`uv run`, `npm`) pass on a Ctrl-C that the terminal sent to us as well: that is one Ctrl-C, not two."""

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Supervisor:
    """Runs `programs` until a signal asks it to stop. Use it in the main thread, once.

    Args:
        programs: what to keep running.
        grace_s: seconds that children may take to end after SIGTERM.
        say: where their output and our own messages go.
        watch: called whenever the supervisor wakes, also at a child's end; its exceptions end everything.
    """

    def __init__(
        self,
        programs: Sequence[Program],
        *,
        grace_s: float,
        print_line: PrintLine,
        watch: Callable[[], None] = lambda: None,
    ) -> None:
        self._children = [Child(program, print_line) for program in programs]
        self._grace_s = grace_s
        self._print_line = print_line
        self._watch = watch
        self._selector = selectors.DefaultSelector()
        self._stop_asked_at: float | None = None
        self._killing = False
        self._gave_up = False

    def run(self) -> int:
        """0 after a requested stop, 1 if a child cannot run at all."""
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
            self._print_line(child.name, "cannot run with these flags and settings (see above); stopping everything")
        elif code == ENDED_AS_ASKED:
            self._print_line(child.name, "has ended as it was asked to, and is not started again")
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
            self._print_line(
                "rushes", f"stopping {names}: waiting up to {self._grace_s:g} s (Ctrl-C again does not wait)"
            )
        while (names := self._running_names()) and not self._killing and time.monotonic() < deadline:
            self._turn(max(0.0, deadline - time.monotonic()))
        if names:
            self._print_line("rushes", f"killing {names}")
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
