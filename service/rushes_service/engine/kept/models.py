"""Base models that were loaded before the present one: they stay in host memory, as long as there is room.

Two runs that train on different models, or a sheet of several, take turns on one device. Read from disk a model takes
seconds to minutes, from pinned host memory one copy.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator

import torch

from rushes_service.engine.kept.files import stamps_of
from rushes_service.engine.loaded import LoadedModel
from rushes_service.runtime.device_memory import free_memory
from rushes_service.runtime.devices import CPU, use_in_this_thread
from rushes_service.runtime.host_memory import HostMemory, host_memory

logger = logging.getLogger("rushes.worker")

GIB = 1 << 30

LOOK_EVERY_S = 0.25
"""Between two looks at the host's memory while it is being filled: half a gibibyte, from a fast disk."""


class KeptModels:
    """The base models of one engine that are not in use. Thread-safe.

    Args:
        budget: bytes of host memory that they may be kept in. None is as much as leaves a quarter of the host's memory
            available; 0 keeps none.
        measure: what the host has.
    """

    def __init__(self, budget: int | None = 0, measure: Callable[[], HostMemory] = host_memory) -> None:
        self._budget = budget
        self._measure = measure
        self._kept: dict[str, LoadedModel] = {}
        """By fingerprint, the one used last is the last."""
        self._lock = threading.RLock()

    @property
    def host_bytes(self) -> int:
        """Bytes of host memory that models are kept in."""
        with self._lock:
            return sum(kept.bytes for kept in self._kept.values())

    def keep(self, loaded: LoadedModel, wanted: str) -> None:
        """Keep a model that leaves its device, if there is room and it can be moved; else it is nobody's afterwards.

        Args:
            wanted: fingerprint of the model that comes in its place, which makes no room for others.

        Raises the device's errors; the model is then of no use.
        """
        if self._budget == 0 or not loaded.can_leave:
            return
        loaded.drop_loras()
        if not self._room_for(loaded, wanted):
            logger.info("%s is not kept: host memory has no room for %s", loaded.spec.label, gib(loaded.bytes))
            return
        loaded.leave()
        with self._lock:
            self._kept[loaded.fingerprint] = loaded
        logger.info("%s is kept in host memory (%s)", loaded.spec.label, gib(loaded.bytes))

    def _room_for(self, loaded: LoadedModel, wanted: str) -> bool:
        """True if a model may stay; those used longest ago make room if that is enough."""
        with self._lock:
            others = {name: kept.bytes for name, kept in self._kept.items() if name != wanted}
            if not self._spares(loaded, 0, sum(others.values())):
                return False
            while not self._spares(loaded, sum(others.values()), 0):
                if not others:
                    return False
                oldest = next(iter(others))
                del others[oldest]
                self._drop(oldest)
            return True

    def _spares(self, loaded: LoadedModel, held: int, freed: int) -> bool:
        """True if `loaded` may stay beside others of `held` bytes, once `freed` bytes more are given back."""
        if self._budget is None:
            return self._measure().spares(loaded.bytes_to_copy - freed)
        return held + loaded.bytes <= self._budget

    def take(self, fingerprint: str) -> LoadedModel | None:
        """The model of a fingerprint, still in host memory, and kept no longer; None if it must be loaded."""
        with self._lock:
            found = self._kept.pop(fingerprint, None)
        if found is None or found.stamps == stamps_of(found.spec):
            return found
        logger.info("%s is loaded anew: its files have changed", found.spec.label)
        return None

    def put_back(self, loaded: LoadedModel) -> None:
        """Keep a model that was taken, and could not be used."""
        with self._lock:
            self._kept[loaded.fingerprint] = loaded

    def trim(self, in_use: LoadedModel) -> None:
        """Give back what is beyond the budget now that a model is in use: first its copy, which it does not need."""
        if copied(in_use) and self._beyond(copied(in_use)):
            drop_copy(in_use)
        while self._budget is None and self._kept and not self._measure().spares():
            self._drop_oldest()

    def _beyond(self, size: int) -> bool:
        if self._budget is None:
            return not self._measure().spares()
        return self.host_bytes + size > self._budget

    def relieve(self, in_use: LoadedModel | None) -> None:
        """While the host's memory is short, give back the copy of the model in use, then those used longest ago."""
        if copied(in_use) and self._measure().short:
            drop_copy(in_use)
        while self._kept and self._measure().short:
            self._drop_oldest()

    @contextlib.contextmanager
    def relieving(self, device: torch.device, in_use: LoadedModel | None = None) -> Iterator[None]:
        """Inside, where host memory is being filled, look at it again and again, and `relieve` it."""
        if not self._kept and not copied(in_use):
            yield
            return
        ended = threading.Event()

        def work() -> None:
            use_in_this_thread(device)
            while not ended.wait(LOOK_EVERY_S):
                self.relieve(in_use)

        thread = threading.Thread(target=work, name="rushes-host-memory", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def give_back(self) -> None:
        """Give back all."""
        while self._kept:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        with self._lock:
            if self._kept:
                self._drop(next(iter(self._kept)))

    def _drop(self, fingerprint: str) -> None:
        kept = self._kept.pop(fingerprint)
        logger.info("%s (%s) is no longer kept in host memory", kept.spec.label, gib(kept.bytes))
        del kept
        free_memory(CPU)


def copied(loaded: LoadedModel | None) -> int:
    """Bytes of host memory that the copy of a model in use takes, which it can do without."""
    return loaded.host_copy.bytes if loaded is not None and loaded.host_copy is not None else 0


def drop_copy(loaded: LoadedModel | None) -> None:
    """Give back the copy of a model in use."""
    if loaded is not None:
        loaded.host_copy = None
        free_memory(CPU)


def gib(size: int) -> str:
    """Bytes, for people."""
    return f"{size / GIB:.1f} GiB"
