"""Who may use what, while one sample is decoded in the background and the next one is denoised."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator


class EngineLocks:
    """The locks of one engine. `computing` is taken before `vae`, never after it.

    `vae` is held for each use of the VAE: it keeps what it is doing in itself. `computing` is held while the base
    model is loaded, changed or used, and by a decode that ran out of memory and needs the device for itself.
    """

    def __init__(self) -> None:
        self.vae = threading.RLock()
        self.computing = threading.RLock()
        self._decoding: dict[int, int] = {}
        self._ended = threading.Condition()

    @contextlib.contextmanager
    def decoding(self) -> Iterator[None]:
        """Inside, this thread decodes a sample."""
        thread = threading.get_ident()
        with self._ended:
            self._decoding[thread] = self._decoding.get(thread, 0) + 1
        try:
            yield
        finally:
            with self._ended:
                self._decoding[thread] -= 1
                if not self._decoding[thread]:
                    del self._decoding[thread]
                self._ended.notify_all()

    def wait_for_decoding(self) -> None:
        """Return when no other thread decodes; not to be called with a lock held."""
        own = threading.get_ident()
        with self._ended:
            self._ended.wait_for(lambda: not (self._decoding.keys() - {own}))
