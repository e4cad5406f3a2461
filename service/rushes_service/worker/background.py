"""A background thread for one task at a time: finishing a sample while the next one is denoised."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Background:
    """Runs one task at a time beside the calling thread. Not thread-safe: one thread uses it."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None

    @property
    def busy(self) -> bool:
        """True while a task runs."""
        return self._thread is not None and self._thread.is_alive()

    def start(self, work: Callable[[], None]) -> None:
        """Wait for the task before, then start `work`; raises what the task before raised."""
        self.wait()

        def run() -> None:
            try:
                work()
            except BaseException as error:  # noqa: BLE001  # raised by wait()
                self._failure = error

        self._thread = threading.Thread(target=run, name="rushes-finish")
        self._thread.start()

    def check(self) -> None:
        """Raise the exception of a task that has failed."""
        if not self.busy:
            self.wait()

    def wait(self) -> None:
        """Wait for the task to end; raises what it raised."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure
