"""One thing at a time in a thread of its own: the end of a sample, while the next one is denoised."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Background:
    """Runs work beside the calling thread, never more than one piece. Used by one thread only."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None

    @property
    def busy(self) -> bool:
        """True while work goes on."""
        return self._thread is not None and self._thread.is_alive()

    def start(self, work: Callable[[], None]) -> None:
        """Begin `work`, after what was begun before has ended; raises what that raised."""
        self.wait()

        def run() -> None:
            try:
                work()
            except BaseException as error:  # noqa: BLE001  # raised where it is waited for
                self._failure = error

        self._thread = threading.Thread(target=run, name="rushes-finish")
        self._thread.start()

    def check(self) -> None:
        """Raise what the work raised, if it has ended so."""
        if not self.busy:
            self.wait()

    def wait(self) -> None:
        """Return when nothing goes on any more; raises what the work raised."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure
