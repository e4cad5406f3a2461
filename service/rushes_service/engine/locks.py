"""The locks of an engine that decodes one sample in the background while it denoises the next one."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator


class EngineLocks:
    """The locks of one engine. `compute_lock` is taken before `vae_lock`, never after it.

    `vae_lock` is held for each use of the VAE, which keeps state between calls. `compute_lock` is held while the base
    model is loaded, changed or used, and by a decode that ran out of memory and needs the device for itself.
    """

    def __init__(self) -> None:
        self.vae_lock = threading.RLock()
        self.compute_lock = threading.RLock()
        self._decoding: dict[int, int] = {}
        self._ended = threading.Condition()

    @contextlib.contextmanager
    def register_decode(self) -> Iterator[None]:
        """Register this thread as decoding a sample while inside."""
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
        """Wait until no other thread decodes. Must not be called with a lock held."""
        own = threading.get_ident()
        with self._ended:
            self._ended.wait_for(lambda: not (self._decoding.keys() - {own}))
