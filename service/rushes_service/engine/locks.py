"""The locks of an engine that decodes one sample in the background while it denoises the next one."""

from __future__ import annotations

import threading


class EngineLocks:
    """The locks of one engine. `compute_lock` is taken before `vae_lock`, never after it.

    `vae_lock` is held for each use of the VAE, which keeps state between calls. `compute_lock` is held while the base
    model is loaded, changed or used, and by a decode that ran out of memory and needs the device for itself.
    """

    def __init__(self) -> None:
        self.vae_lock = threading.RLock()
        self.compute_lock = threading.RLock()
        self._decodes: set[DecodeRegistration] = set()
        self._changed = threading.Condition()

    def register_decode(self, *, here: bool = True) -> DecodeRegistration:
        """Register a decode, which others then wait for until it is released.

        Args:
            here: it is this thread's. Else it was handed over, and belongs to the thread that claims it.
        """
        decode = DecodeRegistration(self, threading.get_ident() if here else None)
        with self._changed:
            self._decodes.add(decode)
        return decode

    def release(self, decode: DecodeRegistration) -> None:
        """End a registration; may be called again."""
        with self._changed:
            self._decodes.discard(decode)
            self._changed.notify_all()

    def wait_for_decoding(self) -> None:
        """Wait until no other thread decodes, or is about to. Must not be called with a lock held."""
        own = threading.get_ident()
        with self._changed:
            self._changed.wait_for(lambda: all(decode.thread == own for decode in self._decodes))

    @property
    def registered(self) -> bool:
        """True while any thread decodes, this one too, or is about to."""
        with self._changed:
            return bool(self._decodes)

    @property
    def decoding(self) -> bool:
        """True while another thread decodes, or is about to."""
        own = threading.get_ident()
        with self._changed:
            return any(decode.thread != own for decode in self._decodes)


class DecodeRegistration:
    """A decode that is registered, and the thread that it belongs to; None if nobody has claimed it yet."""

    def __init__(self, locks: EngineLocks, thread: int | None) -> None:
        self._locks = locks
        self.thread = thread

    def claim(self) -> None:
        """Make it the calling thread's."""
        self.thread = threading.get_ident()

    def release(self) -> None:
        """End it; may be called again."""
        self._locks.release(self)

    def __enter__(self) -> DecodeRegistration:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
