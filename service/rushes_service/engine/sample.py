"""A denoised sample. Its frames are decoded as they are asked for, with fallbacks when memory runs out."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from rushes.errors import NonFiniteLatents, OutOfMemory
from rushes.families.parameters import SampleParameters
from rushes.wire.jobs import VaeOptions
from rushes_service.engine.fallbacks import Fallback, StageAttempt
from rushes_service.engine.locks import EngineLocks
from rushes_service.engine.placement import free_memory, transformer_on_cpu, vae_on_device
from rushes_service.runtime.devices import device_errors, peak_memory
from rushes_service.runtime.pixels import to_uint8

if TYPE_CHECKING:
    from rushes_service.models.base import Architecture


class ProgressCallback(Protocol):
    """Follows a sample. Both methods may raise a `SampleStopped` to end it; the engine lets that through."""

    def stage(self, name: str, total: int = 0) -> None:
        """A stage begins: "wait", "load", "lora", "encode", "denoise" or "decode", of `total` units if they can be
        counted. One that ran out of memory begins again.
        """

    def step(self, done: int, total: int) -> None:
        """`done` of the stage's `total` units have been made: denoising steps, then decoded frames."""


@dataclass
class Stopwatch:
    """Seconds per stage."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextlib.contextmanager
    def timing(self, stage: str) -> Iterator[None]:
        """Add the time spent inside to `stage`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start


@dataclass
class DenoisedSample:
    """One sample, denoised; its frames are decoded as they are asked for, by one thread.

    `latents` are the final ones before unscaling, e.g. [1, 16, T, h, w] for Wan. `attempts` has one entry per
    stage, the decode last.
    """

    parameters: SampleParameters
    latents: torch.Tensor
    _base: Architecture
    _vae: VaeOptions
    _watch: ProgressCallback
    _clock: Stopwatch
    _locks: EngineLocks
    _attempts: tuple[StageAttempt, ...]
    _warnings: tuple[str, ...]
    _facts: dict[str, Any]

    def frames(self) -> Iterator[np.ndarray]:
        """Frames, uint8 [H, W, 3], one at a time.

        Raises:
            NonFiniteLatents: the decoder made NaN or infinity.
            OutOfMemory, WorkerUnfit: the device failed.
            SampleStopped: raised by the watcher.
        """
        for pixels in self.pixels():
            yield from to_uint8(pixels)

    def pixels(self) -> Iterator[torch.Tensor]:
        """Clips as they are decoded: float32 [3, frames, H, W] in 0..1. Raises as `frames`."""
        total, done = self.parameters.frame_count, 0
        attempt = self._attempts[-1]
        with self._locks.register_decode():
            while True:
                self._watch.stage("decode", total)
                try:
                    for pixels in self._decoded(attempt.fallback, done, alone=attempt.at > 0):
                        done += pixels.shape[1]
                        self._watch.step(done, total)
                        yield pixels
                    return
                except OutOfMemory as error:
                    attempt.next_fallback(error)
                free_memory(self._base.device)

    def _decoded(self, fallback: Fallback, skip: int, *, alone: bool) -> Iterator[torch.Tensor]:
        """Pixels from frame `skip` on, decoded as `fallback` says; `alone` keeps the device from others meanwhile."""
        with contextlib.ExitStack() as stack:
            if alone:
                stack.enter_context(self._locks.compute_lock)
            stack.enter_context(device_errors(self._base.device, "decoding"))
            stack.enter_context(transformer_on_cpu(self._base, enabled=fallback.transformer_on_cpu))
            stack.enter_context(vae_on_device(self._base))
            decoded = stack.enter_context(
                contextlib.closing(self._base.decode(self.latents, fallback.vae or self._vae))
            )
            while (pixels := self._next(decoded)) is not None:
                # Frames that the attempt before handed on are made again, and are the same.
                fresh = pixels[:, skip:]
                skip = max(skip - pixels.shape[1], 0)
                if fresh.shape[1]:
                    yield fresh

    def _next(self, decoded: Iterator[torch.Tensor]) -> torch.Tensor | None:
        """The next clip, if there is one."""
        with self._clock.timing("decode"), self._locks.vae_lock:
            pixels = next(decoded, None)
            if pixels is not None and not torch.isfinite(pixels).all():
                raise NonFiniteLatents("the VAE decoded NaN or infinity although the latents are finite")
        return pixels

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a person should know about the sample; complete once the frames have been taken."""
        return (*self._warnings, *filter(None, (attempt.warning() for attempt in self._attempts)))

    def facts(self) -> dict[str, Any]:
        """What was done, for the receipt; complete once the frames have been taken."""
        seconds = {stage: round(value, 4) for stage, value in self._clock.seconds.items()}
        used = {attempt.stage: facts for attempt in self._attempts if (facts := attempt.facts())}
        return {
            "parameters": self.parameters.model_dump(mode="json"),
            "warnings": list(self.warnings),
            **self._facts,
            **({"out_of_memory": used} if used else {}),
            "seconds": seconds,
            "peak_memory": peak_memory(self._base.device),
        }
