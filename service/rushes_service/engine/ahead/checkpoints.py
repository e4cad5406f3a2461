"""While a sample is denoised, the checkpoint of the next one is read, hashed and checked, into pinned host memory.

One checkpoint at most is kept so, and only where it leaves a quarter of the host's memory. Whatever is wrong with it is
told when its own sample is made, which then reads it by itself.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator

import torch

from rushes.wire.jobs import SampleJob
from rushes_service.engine.context import SampleContext, nothing_waits
from rushes_service.lora.ahead import bytes_of
from rushes_service.lora.manager import LoraManager, requested_loras
from rushes_service.runtime.devices import use_in_this_thread
from rushes_service.runtime.host_memory import HostMemory, host_memory

logger = logging.getLogger("rushes.worker")

LOOK_EVERY_S = 1.0
"""A checkpoint may be submitted while a sample is denoised."""

MIB = 1 << 20


class CheckpointReader:
    """The thread of one engine that reads ahead; it lives as long as one sample is denoised, or one file is read.

    Args:
        measure: what the host has.
    """

    def __init__(self, device: torch.device, measure: Callable[[], HostMemory] = host_memory) -> None:
        self._device = device
        self._measure = measure
        self._thread: threading.Thread | None = None

    @contextlib.contextmanager
    def reading(self, loras: LoraManager, context: SampleContext) -> Iterator[None]:
        """Inside, look for a sample that needs other files, and read them."""
        still_reading = self._thread is not None and self._thread.is_alive()
        if still_reading or context.waiting is nothing_waits:
            yield
            return
        loras.prepare_names()
        ended = threading.Event()
        self._thread = threading.Thread(
            target=self._work, args=(loras, context, ended), name="rushes-read-ahead", daemon=True
        )
        self._thread.start()
        try:
            yield
        finally:
            ended.set()

    def relieve(self, loras: LoraManager) -> None:
        """Give back what was read ahead, if the host's memory is short."""
        if loras.ahead and self._measure().short:
            loras.ahead.forget()

    def wait(self) -> None:
        """Wait until nothing is read."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _work(self, loras: LoraManager, context: SampleContext, ended: threading.Event) -> None:
        use_in_this_thread(self._device)
        try:
            while (job := following(context)) is None:
                if ended.wait(LOOK_EVERY_S):
                    return
            self._read(loras, job)
        except Exception as error:  # noqa: BLE001  # the sample that needs it will say so
            logger.debug("a checkpoint is not read ahead of its turn: %s", error)

    def _read(self, loras: LoraManager, job: SampleJob) -> None:
        files = requested_loras(job)
        size = bytes_of(files)
        if not self._measure().spares(size):
            loras.ahead.forget()
            logger.info("step %d is read in its own turn: %d MiB are too much for the host now", job.step, size // MIB)
            return
        loras.read_ahead(files, allow_partial=job.allow_partial_lora, allow_other_family=job.allow_other_family)
        logger.info("step %d is in host memory, ready to be merged (%d MiB)", job.step, size // MIB)


def following(context: SampleContext) -> SampleJob | None:
    """The next sample of the same model that needs other files than the present one; None if none waits."""
    return next((job for job in context.waiting() if needs_others(job, context)), None)


def needs_others(job: SampleJob, context: SampleContext) -> bool:
    """True if `job` is of the same model and has files that the present sample has not."""
    if job.model.fingerprint != context.job.model.fingerprint:
        return False
    return not fingerprints(job) <= fingerprints(context.job)


def fingerprints(job: SampleJob) -> set[str]:
    """Hashes of a sample's files."""
    checkpoint = [job.checkpoint.fingerprint] if job.checkpoint is not None else []
    return {*checkpoint, *(lora.fingerprint for lora in job.loras)}
