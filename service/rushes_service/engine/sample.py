"""One sample whose latents are made: it is decoded as its frames are asked for, however little memory there is."""

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
from rushes_service.engine.placement import aside, free_memory, vae_on_device
from rushes_service.models.wan.decode import to_uint8
from rushes_service.runtime.devices import device_errors, peak_memory

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

    `latents` are the final ones before unscaling, e.g. [1, 16, T, h, w] for Wan. `ascents` are the climbs of the
    stages, that of the decode last.
    """

    parameters: SampleParameters
    latents: torch.Tensor
    _base: Architecture
    _vae: VaeOptions
    _watch: ProgressCallback
    _clock: Stopwatch
    _turns: EngineLocks
    _ascents: tuple[StageAttempt, ...]
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
        ascent = self._ascents[-1]
        with self._turns.decoding():
            while True:
                self._watch.stage("decode", total)
                try:
                    for pixels in self._decoded(ascent.rung, done, alone=ascent.at > 0):
                        done += pixels.shape[1]
                        self._watch.step(done, total)
                        yield pixels
                    return
                except OutOfMemory as error:
                    ascent.higher(error)
                free_memory(self._base.device)

    def _decoded(self, rung: Fallback, skip: int, *, alone: bool) -> Iterator[torch.Tensor]:
        """Pixels from frame `skip` on, decoded as `rung` says; `alone` keeps the device from others meanwhile."""
        with contextlib.ExitStack() as stack:
            if alone:
                stack.enter_context(self._turns.computing)
            stack.enter_context(device_errors(self._base.device, "decoding"))
            stack.enter_context(aside(self._base, wanted=rung.aside))
            stack.enter_context(vae_on_device(self._base))
            decoded = stack.enter_context(contextlib.closing(self._base.decode(self.latents, rung.vae or self._vae)))
            while (pixels := self._next(decoded)) is not None:
                # Frames that the attempt before handed on are made again, and are the same.
                fresh = pixels[:, skip:]
                skip = max(skip - pixels.shape[1], 0)
                if fresh.shape[1]:
                    yield fresh

    def _next(self, decoded: Iterator[torch.Tensor]) -> torch.Tensor | None:
        """The next clip, if there is one."""
        with self._clock.timing("decode"), self._turns.vae:
            pixels = next(decoded, None)
            if pixels is not None and not torch.isfinite(pixels).all():
                raise NonFiniteLatents("the VAE decoded NaN or infinity although the latents are finite")
        return pixels

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a person should know about the sample; complete once the frames have been taken."""
        return (*self._warnings, *filter(None, (ascent.warning() for ascent in self._ascents)))

    def facts(self) -> dict[str, Any]:
        """What was done, for the receipt; complete once the frames have been taken."""
        seconds = {stage: round(value, 4) for stage, value in self._clock.seconds.items()}
        climbed = {ascent.stage: facts for ascent in self._ascents if (facts := ascent.facts())}
        return {
            "parameters": self.parameters.model_dump(mode="json"),
            "warnings": list(self.warnings),
            **self._facts,
            **({"out_of_memory": climbed} if climbed else {}),
            "seconds": seconds,
            "peak_memory": peak_memory(self._base.device),
        }
