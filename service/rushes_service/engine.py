"""The engine: one warm base model, its LoRA state, and what turns a job into a picture.

    load (if another base model is warm) -> merge the LoRA (if it changed) -> encode (cached) -> denoise -> decode

One sample at a time, in one thread. Whatever ends a sample, a wrong file, a full device, a cancel raised by the
watcher, the engine stays usable and the base weights stay exact.
"""

from __future__ import annotations

import contextlib
import gc
import platform
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import psutil
import torch

from rushes.architectures import architecture
from rushes.errors import NonFiniteLatents
from rushes.jobs import Dtype, SampleJob, VaeOptions
from rushes.parameters import SampleParameters, resolve
from rushes_service.architectures.base import Architecture, Denoised
from rushes_service.architectures.conditioning import ConditioningCache
from rushes_service.architectures.devices import (
    device_errors,
    name_of,
    peak_memory,
    reset_peak_memory,
    resolve_device,
    resolve_dtype,
)
from rushes_service.architectures.registry import find
from rushes_service.decode import to_uint8
from rushes_service.lora.rack import LoraRack, Wanted, wanted_by

CONDITIONING_DIR = "conditioning"
PACKAGES = ("rushes", "torch", "diffusers", "transformers")


class Watch(Protocol):
    """Follows a sample. Both methods may raise a `SampleStopped` to end it; the engine lets that through."""

    def stage(self, name: str, total: int = 0) -> None:
        """A stage begins: "load", "lora", "encode", "denoise" or "decode", of `total` units if they can be counted."""

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
class Warm:
    """A loaded base model and the LoRAs that are in it."""

    fingerprint: str
    base: Architecture
    loras: LoraRack


@dataclass
class Take:
    """One sample, denoised; its frames are decoded as they are asked for.

    `latents` are the final ones before unscaling, e.g. [1, 16, T, h, w] for Wan.
    """

    parameters: SampleParameters
    warnings: tuple[str, ...]
    latents: torch.Tensor
    _base: Architecture
    _vae: VaeOptions
    _watch: Watch
    _clock: Stopwatch
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
        total = self.parameters.frame_count
        self._watch.stage("decode", total)
        decoded = self._base.decode(self.latents, self._vae)
        done = 0
        with contextlib.closing(decoded), device_errors(self._base.device, "decoding"):
            while True:
                with self._clock.timing("decode"):
                    pixels = next(decoded, None)
                    finite = pixels is None or bool(torch.isfinite(pixels).all())
                if pixels is None:
                    return
                if not finite:
                    raise NonFiniteLatents("the VAE decoded NaN or infinity although the latents are finite")
                done += pixels.shape[1]
                self._watch.step(done, total)
                yield pixels

    def facts(self) -> dict[str, Any]:
        """What was done, for the receipt; complete once the frames have been taken."""
        seconds = {stage: round(value, 4) for stage, value in self._clock.seconds.items()}
        return {
            "parameters": self.parameters.model_dump(mode="json"),
            "warnings": list(self.warnings),
            **self._facts,
            "seconds": seconds,
            "peak_memory": peak_memory(self._base.device),
        }


class Engine:
    """Samples jobs on one device, keeping the last base model warm.

    Args:
        device: "auto", "cpu" or "cuda:0".
        cache_dir: where conditioning is kept between runs.
        dtype: precision of the transformer for jobs that name none; by default bfloat16 on a GPU, float32 on the CPU.

    Raises:
        ConfigError: there is no such device.
    """

    def __init__(self, device: str, cache_dir: Path, dtype: Dtype | None = None) -> None:
        self.device = resolve_device(device)
        self.conditioning = ConditioningCache(cache_dir / CONDITIONING_DIR)
        self._dtype = dtype
        self._warm: Warm | None = None

    @property
    def warm_model(self) -> str | None:
        """Fingerprint of the `ModelSpec` that is loaded."""
        return self._warm.fingerprint if self._warm else None

    @property
    def memory_bytes(self) -> int:
        """Memory held: on the GPU, or of the whole process on the CPU."""
        if self.device.type == "cuda":
            return torch.cuda.memory_allocated(self.device)
        return psutil.Process().memory_info().rss

    def unload(self) -> None:
        """Give the base model's memory back."""
        self._warm = None
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def denoise(self, job: SampleJob, watch: Watch) -> Take:
        """Make the latents of `job`.

        Raises:
            InputError: the job, its checkpoint or its base model is wrong (see `rushes.errors`).
            NonFiniteLatents: the checkpoint makes NaN or infinity.
            OutOfMemory, WorkerUnfit: the device failed.
            SampleStopped: raised by `watch`.
        """
        parameters, warnings = resolve(job.prompt, architecture(job.model.architecture), job.model)
        find(job.model.architecture).check(parameters)
        wanted = wanted_by(job)
        clock = Stopwatch()
        reset_peak_memory(self.device)
        with device_errors(self.device, "loading the model"):
            warm = self._load(job, watch, clock)
        with device_errors(self.device, "merging the LoRA"):
            self._merge(warm, wanted, job.allow_partial_lora, watch, clock)
        denoised = self._sample(warm.base, parameters, job.vae, watch, clock)
        return Take(
            parameters,
            (*warnings, *warm.base.warnings(parameters, job.vae), *warm.loras.warnings),
            denoised.latents,
            warm.base,
            job.vae,
            watch,
            clock,
            self._facts(warm, job, denoised),
        )

    def _load(self, job: SampleJob, watch: Watch, clock: Stopwatch) -> Warm:
        """The base model of `job`, loaded unless it is warm."""
        fingerprint = job.model.fingerprint
        if self._warm is None or self._warm.fingerprint != fingerprint:
            self.unload()
            watch.stage("load")
            with clock.timing("load"):
                dtype = resolve_dtype(job.model.dtype or self._dtype, self.device)
                base = find(job.model.architecture)(job.model, self.device, dtype)
                base.load()
                rack = LoraRack(base.transformer, base.lora_names, job.model.architecture)
                self._warm = Warm(fingerprint, base, rack)
        return self._warm

    def _merge(self, warm: Warm, wanted: Sequence[Wanted], allow_partial: bool, watch: Watch, clock: Stopwatch) -> None:
        """Bring the weights to the job's LoRAs and strengths."""
        watch.stage("lora")
        with clock.timing("lora"):
            warm.loras.apply(wanted, allow_partial=allow_partial)

    def _sample(
        self, base: Architecture, parameters: SampleParameters, vae: VaeOptions, watch: Watch, clock: Stopwatch
    ) -> Denoised:
        """Encode and denoise."""

        def on_step(done: int, total: int, latents: torch.Tensor) -> None:
            if not torch.isfinite(latents).all():
                raise NonFiniteLatents(non_finite_message(done, total, parameters))
            watch.step(done, total)

        watch.stage("encode")
        with clock.timing("encode"), device_errors(self.device, "encoding"):
            conditioning = base.encode(parameters, self.conditioning)
            conditioning = base.encode_images(parameters, conditioning, vae)
        watch.stage("denoise", base.total_steps(parameters))
        with clock.timing("denoise"), device_errors(self.device, "denoising"):
            return base.denoise(parameters, conditioning, on_step)

    def _facts(self, warm: Warm, job: SampleJob, denoised: Denoised) -> dict[str, Any]:
        """What the receipt says about model, LoRA and machine."""
        return {
            "model": {"fingerprint": warm.fingerprint, **job.model.model_dump(mode="json", exclude_defaults=True)},
            **warm.loras.facts(),
            "dtype": name_of(warm.base.dtype),
            "device": device_name(self.device),
            "vae": job.vae.model_dump(mode="json", exclude_defaults=True),
            **denoised.facts,
            "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        }


def non_finite_message(done: int, total: int, parameters: SampleParameters) -> str:
    """Says at which step the latents were lost, and what to look at."""
    return (
        f"latents became NaN or infinite at step {done} of {total} (LoRA strength {parameters.lora_multiplier:g}): the "
        "checkpoint has most likely diverged; `--m 0` shows whether the base model is sound, float16 may overflow too"
    )


def device_name(device: torch.device) -> str:
    """The device, with the GPU's name."""
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)
