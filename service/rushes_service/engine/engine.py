"""The engine: one loaded base model, its LoRA state, and the stages that turn a job into a picture.

    load (if another base model is loaded) -> merge the LoRA (if it changed) -> encode (cached) -> denoise -> decode

One thread makes one sample at a time; a second thread may decode the previous one. A stage that runs out of memory is
repeated in a way that needs less (see `fallbacks`). After any error (a wrong file, a full device, a cancelled sample)
the engine stays usable and the base weights stay exact.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from rushes.errors import NonFiniteLatents
from rushes.families.parameters import SampleParameters, resolve
from rushes.families.table import architecture
from rushes.wire.jobs import Dtype, SampleJob
from rushes_service.engine import placement
from rushes_service.engine.fallbacks import (
    DENOISE,
    ENCODE,
    LOAD,
    LORA,
    Fallback,
    MemoryFallbacks,
    StageAttempt,
    decode_fallbacks,
)
from rushes_service.engine.locks import EngineLocks
from rushes_service.engine.sample import DenoisedSample, ProgressCallback, Stopwatch
from rushes_service.lora.manager import LoraManager, RequestedLora, requested_loras
from rushes_service.models.base import Architecture, Denoised
from rushes_service.models.conditioning import Conditioning, ConditioningCache
from rushes_service.models.loading.files.hashes import FILE_HASHES_DIR, FileHashCache
from rushes_service.models.registry import find
from rushes_service.runtime.available_memory import MemoryGate, available_bytes
from rushes_service.runtime.devices import (
    device_errors,
    memory_now,
    name_of,
    reset_peak_memory,
    resolve_device,
    resolve_dtype,
)
from rushes_service.storage.disk_cache import CONDITIONING_DIR

logger = logging.getLogger("rushes.worker")

PACKAGES = ("rushes", "torch", "diffusers", "transformers")


@dataclass
class LoadedModel:
    """A loaded base model and the LoRAs that are in it."""

    fingerprint: str
    base: Architecture
    loras: LoraManager
    offloaded: bool = False


@dataclass
class SampleContext:
    """One sample on its way through the stages. `attempts` are those of loading and merging, if they were done."""

    job: SampleJob
    parameters: SampleParameters
    watch: ProgressCallback
    clock: Stopwatch
    attempts: list[StageAttempt] = field(default_factory=list)

    @property
    def shape(self) -> tuple[object, ...]:
        """What its need of memory depends on."""
        size = (self.parameters.width, self.parameters.height, self.parameters.frame_count)
        return (self.job.model.fingerprint, *size, self.job.vae)


class Engine:
    """Samples jobs on one device, keeping the last base model loaded.

    Args:
        device: "auto", "cpu" or "cuda:0".
        cache_dir: where conditioning is kept between runs.
        dtype: precision of the transformer for jobs that name none; by default bfloat16 on a GPU, float32 on the CPU.
        cache_bytes: what the conditioning may take on disk; None is any amount.
        offload: keep the transformer in host memory and bring its blocks to the device as they compute.
        min_free_gib: GiB of the device that must be within reach before a sample begins; until then it waits.
        measure: bytes within reach of a device.

    Raises:
        ConfigError: there is no such device.
    """

    def __init__(
        self,
        device: str,
        cache_dir: Path,
        dtype: Dtype | None = None,
        *,
        cache_bytes: int | None = None,
        offload: bool = False,
        min_free_gib: float = 0.0,
        measure: Callable[[torch.device], int] = available_bytes,
    ) -> None:
        self.device = resolve_device(device)
        self.conditioning = ConditioningCache(cache_dir / CONDITIONING_DIR, cache_bytes)
        self.fallbacks = MemoryFallbacks()
        self._dtype = dtype
        self._offload = offload
        self._memory_gate = MemoryGate(min_free_gib, self.device, measure)
        self._locks = EngineLocks()
        self._loaded: LoadedModel | None = None

    @property
    def loaded_model(self) -> str | None:
        """Fingerprint of the `ModelSpec` that is loaded."""
        return self._loaded.fingerprint if self._loaded else None

    @property
    def memory(self) -> dict[str, int]:
        """Bytes held, at most, used by everybody, and in all: see `memory_now`."""
        return memory_now(self.device)

    @property
    def overlaps(self) -> bool:
        """True if memory allows one sample to be decoded while the next one is denoised."""
        return not (self._offload or self.fallbacks.used)

    def unload(self) -> None:
        """Give the base model's memory back."""
        self._loaded = None
        placement.free_memory(self.device)

    def denoise(self, job: SampleJob, watch: ProgressCallback) -> DenoisedSample:
        """Make the latents of `job`.

        Raises:
            InputError: the job, its checkpoint or its base model is wrong (see `rushes.errors`).
            NonFiniteLatents: the checkpoint makes NaN or infinity.
            OutOfMemory, WorkerUnfit: the device failed.
            SampleStopped: raised by `watch`.
        """
        parameters, warnings = resolve(job.prompt, architecture(job.model.architecture), job.model)
        find(job.model.architecture).check(parameters)
        loras = requested_loras(job)
        context = SampleContext(job, parameters, watch, Stopwatch())
        self._memory_gate.wait(watch)
        reset_peak_memory(self.device)
        loaded = self._load(context)
        self._prepare(loaded, loras, context)
        encode, denoise, decode = self._attempts(loaded.base, context)
        conditioning = encode.run(lambda fallback: self._encode(loaded.base, context, fallback), self._make_room)
        denoised = denoise.run(
            lambda fallback: self._denoise(loaded, loras, conditioning, context, fallback), self._make_room
        )
        return DenoisedSample(
            parameters,
            denoised.latents,
            loaded.base,
            job.vae,
            watch,
            context.clock,
            self._locks,
            (*context.attempts, encode, denoise, decode),
            (
                *warnings,
                *loaded.base.file_hashes.warnings,
                *loaded.base.warnings(parameters, job.vae),
                *loaded.loras.warnings,
            ),
            self._facts(loaded, job, denoised),
        )

    def _attempts(self, base: Architecture, context: SampleContext) -> tuple[StageAttempt, StageAttempt, StageAttempt]:
        """Climbs of encoding, denoising and decoding."""
        parameters = context.parameters
        decode = decode_fallbacks(context.job.vae, parameters.width, parameters.height, chunked=base.chunked)
        stages = {"encode": ENCODE, "denoise": DENOISE, "decode": decode}
        encode, denoise, decode = (
            self.fallbacks.attempt(stage, context.shape, fallbacks) for stage, fallbacks in stages.items()
        )
        return encode, denoise, decode

    def _make_room(self) -> None:
        """Free what can be freed, after memory ran out."""
        self._locks.wait_for_decoding()
        placement.free_memory(self.device)

    def _load(self, context: SampleContext) -> LoadedModel:
        """The base model of a job, loaded unless it is warm."""
        model = context.job.model
        if self._loaded is None or self._loaded.fingerprint != model.fingerprint:
            self._locks.wait_for_decoding()
            self.unload()
            loading = self._model_attempt("load", LOAD, context)
            self._loaded = loading.run(lambda fallback: self._load_files(context, fallback), self._make_room)
        return self._loaded

    def _load_files(self, context: SampleContext, fallback: Fallback) -> LoadedModel:
        """The base model of a job, from its files."""
        model, offload = context.job.model, self._offload or fallback.offload
        context.watch.stage("load")
        with self._locks.compute_lock, context.clock.timing("load"), device_errors(self.device, "loading the model"):
            dtype = resolve_dtype(model.dtype or self._dtype, self.device)
            file_hashes = FileHashCache(self.conditioning.directory / FILE_HASHES_DIR)
            base = find(model.architecture)(model, self.device, dtype, file_hashes)
            placement.load(base, offload=offload)
            loras = LoraManager(base.transformer, base.lora_names, model.architecture)
            return LoadedModel(model.fingerprint, base, loras, offload)

    def _model_attempt(self, stage: str, fallbacks: Sequence[Fallback], context: SampleContext) -> StageAttempt:
        """A climb whose need of memory depends on the base model, not on the size of the clip."""
        attempt = self.fallbacks.attempt(stage, (context.job.model.fingerprint,), fallbacks)
        context.attempts.append(attempt)
        return attempt

    def _prepare(self, loaded: LoadedModel, loras: Sequence[RequestedLora], context: SampleContext) -> None:
        """Bring the weights to the job's LoRAs and strengths, in less memory if it runs out."""

        def attempt(fallback: Fallback) -> None:
            if fallback.offload and not loaded.offloaded:
                self._offload_now(loaded, loras, context)
            else:
                self._merge(loaded, loras, context)

        self._model_attempt("lora", LORA, context).run(attempt, self._make_room)

    def _merge(self, loaded: LoadedModel, loras: Sequence[RequestedLora], context: SampleContext) -> None:
        """Bring the weights to the job's LoRAs and strengths."""
        context.watch.stage("lora")
        with self._locks.compute_lock, context.clock.timing("lora"), device_errors(self.device, "merging the LoRA"):
            placement.offload_all(loaded.base)
            loaded.loras.apply(
                loras,
                allow_partial=context.job.allow_partial_lora,
                allow_other_family=context.job.allow_other_family,
            )

    def _encode(self, base: Architecture, context: SampleContext, fallback: Fallback) -> Conditioning:
        """Text and pictures, as the model takes them."""
        context.watch.stage("encode")
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._locks.compute_lock)
            stack.enter_context(self._locks.vae_lock)
            stack.enter_context(context.clock.timing("encode"))
            stack.enter_context(device_errors(self.device, "encoding"))
            stack.enter_context(placement.transformer_on_cpu(base, enabled=fallback.transformer_on_cpu))
            stack.enter_context(placement.vae_on_device(base))
            device = placement.CPU if fallback.encoders_on_cpu else self.device
            with placement.working_on(base, device):
                encoded = base.encode(context.parameters, self.conditioning)
            conditioning = {name: tensor.to(self.device) for name, tensor in encoded.items()}
            return base.encode_images(context.parameters, conditioning, context.job.vae)

    def _denoise(
        self,
        loaded: LoadedModel,
        loras: Sequence[RequestedLora],
        conditioning: Conditioning,
        context: SampleContext,
        fallback: Fallback,
    ) -> Denoised:
        """Latents out of noise."""

        def on_step(done: int, total: int, latents: torch.Tensor) -> None:
            if not torch.isfinite(latents).all():
                raise NonFiniteLatents(non_finite_message(done, total, context.parameters))
            context.watch.step(done, total)

        if fallback.offload and not loaded.offloaded:
            self._offload_now(loaded, loras, context)
        context.watch.stage("denoise", loaded.base.total_steps(context.parameters))
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._locks.compute_lock)
            if loaded.base.vae_in_denoise:
                stack.enter_context(self._locks.vae_lock)
            stack.enter_context(context.clock.timing("denoise"))
            stack.enter_context(device_errors(self.device, "denoising"))
            return loaded.base.denoise(context.parameters, conditioning, on_step)

    def _offload_now(self, loaded: LoadedModel, loras: Sequence[RequestedLora], context: SampleContext) -> None:
        """Offload a model that is loaded. Its LoRAs are merged anew: their pristine copies leave the device, too."""
        logger.warning("out of memory: %s is offloaded block by block from now on", context.job.model.label)
        context.watch.stage("lora")
        with self._locks.compute_lock, device_errors(self.device, "offloading the model"):
            loaded.loras.merger.restore()
            loaded.loras = LoraManager(loaded.base.transformer, loaded.base.lora_names, context.job.model.architecture)
            placement.offload_blocks(loaded.base, self.device)
            loaded.offloaded = True
        self._merge(loaded, loras, context)

    def _facts(self, loaded: LoadedModel, job: SampleJob, denoised: Denoised) -> dict[str, Any]:
        """What the receipt says about model, LoRA and machine."""
        return {
            "model": {"fingerprint": loaded.fingerprint, **job.model.model_dump(mode="json", exclude_defaults=True)},
            **loaded.loras.facts(),
            "dtype": name_of(loaded.base.dtype),
            "stored_as": placement.stored_as(loaded.base),
            "offloaded": loaded.offloaded,
            "device": device_name(self.device),
            "vae": job.vae.model_dump(mode="json", exclude_defaults=True),
            **denoised.facts,
            "versions": versions(),
        }


@functools.cache
def versions() -> dict[str, str]:
    """Versions of Python and of what computes."""
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


def non_finite_message(done: int, total: int, parameters: SampleParameters) -> str:
    """Says at which step the latents were lost, and what to look at."""
    return (
        f"latents became NaN or infinite at step {done} of {total} (LoRA strength {parameters.lora_multiplier:g}): the "
        "checkpoint has most likely diverged; `--m 0` shows whether the base model is sound; float16, or an extreme "
        "--l, --g or --fs, may overflow too"
    )


def device_name(device: torch.device) -> str:
    """The device, with the GPU's name."""
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)
