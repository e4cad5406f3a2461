"""A denoised sample. Its frames are decoded as they are asked for, with fallbacks when memory runs out."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch

from rushes.errors import NonFiniteLatents, OutOfMemory
from rushes.families.parameters import SampleParameters
from rushes.wire.jobs import VaeOptions
from rushes_service.engine.fallback_memory import StageAttempt
from rushes_service.engine.fallbacks import Fallback
from rushes_service.engine.loaded import LoadedModel
from rushes_service.engine.locks import DecodeRegistration, EngineLocks
from rushes_service.engine.progress import ProgressCallback, Stopwatch
from rushes_service.engine.streams import DecodeStream
from rushes_service.runtime.device_errors import device_errors
from rushes_service.runtime.device_memory import PeakMeter, free_memory
from rushes_service.runtime.devices import use_in_this_thread
from rushes_service.runtime.pixels import to_uint8

T = TypeVar("T")


@dataclass(frozen=True)
class Decoding:
    """What a sample needs to be decoded: the model, how, and what it shares with other samples of the engine."""

    loaded: LoadedModel
    vae: VaeOptions
    attempt: StageAttempt
    locks: EngineLocks
    stream: DecodeStream


class DenoisedSample:
    """One sample, denoised; its frames are decoded as they are asked for, by one thread.

    Args:
        latents: the final ones before unscaling, e.g. [1, 16, T, h, w] for Wan.
        earlier: attempts of the stages before the decode.
        overlaps: the next sample may be denoised while this one is decoded.
    """

    def __init__(
        self,
        parameters: SampleParameters,
        latents: torch.Tensor,
        decoding: Decoding,
        *,
        watch: ProgressCallback,
        clock: Stopwatch,
        peak: PeakMeter,
        earlier: tuple[StageAttempt, ...],
        warnings: tuple[str, ...],
        facts: dict[str, Any],
        overlaps: bool,
    ) -> None:
        self.parameters = parameters
        self.latents = latents
        self.overlaps = overlaps
        self._decoding = decoding
        self._watch = watch
        self._clock = clock
        self._peak = peak
        self._attempts = (*earlier, decoding.attempt)
        self._warnings = warnings
        self._facts = facts
        self._ready = decoding.stream.ready()
        self._registration: DecodeRegistration | None = None
        weakref.finalize(self, peak.end)

    def hand_over(self) -> None:
        """Say that another thread will decode it: from now on nothing that it needs is changed or unloaded.

        That ends when its frames have been taken or given up, or nobody holds the sample any more.
        """
        self._registration = self._decoding.locks.register_decode(here=False)
        weakref.finalize(self, self._registration.release)

    def frames(self) -> Generator[np.ndarray, None, None]:
        """Frames, uint8 [H, W, 3], or [H, W, 4] with transparency, one at a time.

        Raises:
            NonFiniteLatents: the VAE made NaN or infinity of them.
            OutOfMemory: every fallback ran out of memory.
            WorkerUnfit: the device failed.
            SampleStopped: raised by the watcher.
        """
        for frames in self._clips(lambda pixels: list(to_uint8(pixels))):
            yield from frames

    def latent_values(self) -> np.ndarray:
        """The final latents on the CPU, float32."""
        return self.latents.detach().float().cpu().numpy()

    def pixels(self) -> Generator[torch.Tensor, None, None]:
        """Clips as they are decoded: float32 [3 or 4, frames, H, W] in 0..1. Raises as `frames`."""
        yield from self._clips(lambda pixels: pixels)

    def _clips(self, convert: Callable[[torch.Tensor], T]) -> Iterator[T]:
        """What `convert` makes of each clip, on the device; every frame once, however often memory runs out."""
        total, done = self.parameters.frame_count, 0
        attempt, device = self._decoding.attempt, self._decoding.loaded.decode_device
        registration = self._registration or self._decoding.locks.register_decode()
        registration.claim()
        use_in_this_thread(device)
        try:
            while True:
                self._watch.stage("decode", total)
                try:
                    for count, clip in self._decoded(attempt.fallback, done, convert, alone=attempt.at > 0):
                        done += count
                        self._watch.step(done, total)
                        yield clip
                    attempt.succeeded()
                    return
                except OutOfMemory as error:
                    attempt.next_fallback(error)
                free_memory(device)
        finally:
            self._peak.end()
            registration.release()

    def _decoded(
        self, fallback: Fallback, skip: int, convert: Callable[[torch.Tensor], T], *, alone: bool
    ) -> Iterator[tuple[int, T]]:
        """Clips from frame `skip` on, with their numbers of frames; `alone` keeps the device from others meanwhile."""
        loaded, vae = self._decoding.loaded, fallback.vae or self._decoding.vae
        with contextlib.ExitStack() as stack:
            if alone:
                stack.enter_context(self._decoding.locks.compute_lock)
            stack.enter_context(device_errors(loaded.decode_device, "decoding"))
            if fallback.transformer_on_cpu:
                stack.enter_context(loaded.transformer_on_cpu())
            clips = stack.enter_context(contextlib.closing(loaded.base.decode(self.latents, vae)))
            while True:
                with self._working(alone=alone):
                    pixels = next(clips, None)
                    if pixels is None:
                        return
                    # Frames that the attempt before handed on are made again, and are the same but for rounding.
                    fresh = pixels[:, skip:]
                    skip = max(skip - pixels.shape[1], 0)
                    count = fresh.shape[1]
                    made = convert(checked(fresh)) if count else None
                if made is not None:
                    yield count, made

    @contextlib.contextmanager
    def _working(self, *, alone: bool) -> Iterator[None]:
        """Around each use of the device. A decode that another thread runs beside has a stream of its own."""
        decoding = self._decoding
        ready = self._ready if self._registration is not None and not alone else None
        with self._clock.timing("decode"), decoding.locks.vae_lock, decoding.stream.after(ready, self.latents):
            yield

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
            "peak_memory": self._peak.facts(),
        }


def checked(pixels: torch.Tensor) -> torch.Tensor:
    """`pixels`; raises `NonFiniteLatents` if they are not finite."""
    if not torch.isfinite(pixels).all():
        raise NonFiniteLatents("the VAE decoded NaN or infinity although the latents are finite")
    return pixels
