"""The engine: one warm base model, its LoRA state, and what turns a job into a picture.

    load (if another base model is warm) -> merge the LoRA (if it changed) -> encode (cached) -> denoise -> decode

One sample at a time, in one thread; a second thread may decode the sample before. A stage that runs out of memory is
done again in less (see `memory.ladder`). Whatever ends a sample, a wrong file, a full device, a cancel raised by the
watcher, the engine stays usable and the base weights stay exact.
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
    decode_rungs,
)
from rushes_service.engine.locks import EngineLocks
from rushes_service.engine.sample import DenoisedSample, ProgressCallback, Stopwatch
from rushes_service.lora.manager import LoraManager, RequestedLora, wanted_by
from rushes_service.models.base import Architecture, Denoised
from rushes_service.models.conditioning import Conditioning, ConditioningCache
from rushes_service.models.loading.files.hashes import KNOWN_DIR, FileHashCache
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
    """One sample on its way through the stages. `climbs` are those of loading and merging, if they were done."""

    job: SampleJob
    parameters: SampleParameters
    watch: ProgressCallback
    clock: Stopwatch
    climbs: list[StageAttempt] = field(default_factory=list)

    @property
    def shape(self) -> tuple[object, ...]:
        """What its need of memory depends on."""
        size = (self.parameters.width, self.parameters.height, self.parameters.frame_count)
        return (self.job.model.fingerprint, *size, self.job.vae)


class Engine:
    """Samples jobs on one device, keeping the last base model warm.

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
        self.ladder = MemoryFallbacks()
        self._dtype = dtype
        self._offload = offload
        self._room = MemoryGate(min_free_gib, self.device, measure)
        self._turns = EngineLocks()
        self._warm: LoadedModel | None = None

    @property
    def warm_model(self) -> str | None:
        """Fingerprint of the `ModelSpec` that is loaded."""
        return self._warm.fingerprint if self._warm else None

    @property
    def memory(self) -> dict[str, int]:
        """Bytes held, at most, used by everybody, and in all: see `memory_now`."""
        return memory_now(self.device)

    @property
    def overlaps(self) -> bool:
        """True if memory allows one sample to be decoded while the next one is denoised."""
        return not (self._offload or self.ladder.climbed)

    def unload(self) -> None:
        """Give the base model's memory back."""
        self._warm = None
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
        wanted = wanted_by(job)
        work = SampleContext(job, parameters, watch, Stopwatch())
        self._room.wait(watch)
        reset_peak_memory(self.device)
        warm = self._load(work)
        self._prepare(warm, wanted, work)
        encoding, denoising, decoding = self._ascents(warm.base, work)
        conditioning = encoding.climb(lambda rung: self._encode(warm.base, work, rung), self._make_room)
        denoised = denoising.climb(lambda rung: self._denoise(warm, wanted, conditioning, work, rung), self._make_room)
        return DenoisedSample(
            parameters,
            denoised.latents,
            warm.base,
            job.vae,
            watch,
            work.clock,
            self._turns,
            (*work.climbs, encoding, denoising, decoding),
            (
                *warnings,
                *warm.base.known.warnings,
                *warm.base.warnings(parameters, job.vae),
                *warm.loras.warnings,
            ),
            self._facts(warm, job, denoised),
        )

    def _ascents(self, base: Architecture, work: SampleContext) -> tuple[StageAttempt, StageAttempt, StageAttempt]:
        """Climbs of encoding, denoising and decoding."""
        parameters = work.parameters
        decode = decode_rungs(work.job.vae, parameters.width, parameters.height, chunked=base.chunked)
        stages = {"encode": ENCODE, "denoise": DENOISE, "decode": decode}
        encoding, denoising, decoding = (
            self.ladder.ascent(stage, work.shape, rungs) for stage, rungs in stages.items()
        )
        return encoding, denoising, decoding

    def _make_room(self) -> None:
        """Free what can be freed, after memory ran out."""
        self._turns.wait_for_decoding()
        placement.free_memory(self.device)

    def _load(self, work: SampleContext) -> LoadedModel:
        """The base model of a job, loaded unless it is warm."""
        model = work.job.model
        if self._warm is None or self._warm.fingerprint != model.fingerprint:
            self._turns.wait_for_decoding()
            self.unload()
            loading = self._ascent("load", LOAD, work)
            self._warm = loading.climb(lambda rung: self._loaded(work, rung), self._make_room)
        return self._warm

    def _loaded(self, work: SampleContext, rung: Fallback) -> LoadedModel:
        """The base model of a job, from its files."""
        model, offload = work.job.model, self._offload or rung.offload
        work.watch.stage("load")
        with self._turns.computing, work.clock.timing("load"), device_errors(self.device, "loading the model"):
            dtype = resolve_dtype(model.dtype or self._dtype, self.device)
            known = FileHashCache(self.conditioning.directory / KNOWN_DIR)
            base = find(model.architecture)(model, self.device, dtype, known)
            placement.load(base, offload=offload)
            rack = LoraManager(base.transformer, base.lora_names, model.architecture)
            return LoadedModel(model.fingerprint, base, rack, offload)

    def _ascent(self, stage: str, rungs: Sequence[Fallback], work: SampleContext) -> StageAttempt:
        """A climb whose need of memory depends on the base model, not on the size of the clip."""
        ascent = self.ladder.ascent(stage, (work.job.model.fingerprint,), rungs)
        work.climbs.append(ascent)
        return ascent

    def _prepare(self, warm: LoadedModel, wanted: Sequence[RequestedLora], work: SampleContext) -> None:
        """Bring the weights to the job's LoRAs and strengths, in less memory if it runs out."""

        def attempt(rung: Fallback) -> None:
            if rung.offload and not warm.offloaded:
                self._offload_now(warm, wanted, work)
            else:
                self._merge(warm, wanted, work)

        self._ascent("lora", LORA, work).climb(attempt, self._make_room)

    def _merge(self, warm: LoadedModel, wanted: Sequence[RequestedLora], work: SampleContext) -> None:
        """Bring the weights to the job's LoRAs and strengths."""
        work.watch.stage("lora")
        with self._turns.computing, work.clock.timing("lora"), device_errors(self.device, "merging the LoRA"):
            placement.park(warm.base)
            warm.loras.apply(wanted, allow_partial=work.job.allow_partial_lora)

    def _encode(self, base: Architecture, work: SampleContext, rung: Fallback) -> Conditioning:
        """Text and pictures, as the model takes them."""
        work.watch.stage("encode")
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._turns.computing)
            stack.enter_context(self._turns.vae)
            stack.enter_context(work.clock.timing("encode"))
            stack.enter_context(device_errors(self.device, "encoding"))
            stack.enter_context(placement.aside(base, wanted=rung.aside))
            stack.enter_context(placement.vae_on_device(base))
            where = placement.CPU if rung.encoders_on_cpu else self.device
            with placement.working_on(base, where):
                found = base.encode(work.parameters, self.conditioning)
            conditioning = {name: tensor.to(self.device) for name, tensor in found.items()}
            return base.encode_images(work.parameters, conditioning, work.job.vae)

    def _denoise(
        self,
        warm: LoadedModel,
        wanted: Sequence[RequestedLora],
        conditioning: Conditioning,
        work: SampleContext,
        rung: Fallback,
    ) -> Denoised:
        """Latents out of noise."""

        def on_step(done: int, total: int, latents: torch.Tensor) -> None:
            if not torch.isfinite(latents).all():
                raise NonFiniteLatents(non_finite_message(done, total, work.parameters))
            work.watch.step(done, total)

        if rung.offload and not warm.offloaded:
            self._offload_now(warm, wanted, work)
        work.watch.stage("denoise", warm.base.total_steps(work.parameters))
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._turns.computing)
            if warm.base.vae_in_denoise:
                stack.enter_context(self._turns.vae)
            stack.enter_context(work.clock.timing("denoise"))
            stack.enter_context(device_errors(self.device, "denoising"))
            return warm.base.denoise(work.parameters, conditioning, on_step)

    def _offload_now(self, warm: LoadedModel, wanted: Sequence[RequestedLora], work: SampleContext) -> None:
        """Offload a model that is loaded. Its LoRAs are merged anew: their pristine copies leave the device, too."""
        logger.warning("out of memory: %s is offloaded block by block from now on", work.job.model.label)
        work.watch.stage("lora")
        with self._turns.computing, device_errors(self.device, "offloading the model"):
            warm.loras.merger.restore()
            warm.loras = LoraManager(warm.base.transformer, warm.base.lora_names, work.job.model.architecture)
            placement.offload_blocks(warm.base, self.device)
            warm.offloaded = True
        self._merge(warm, wanted, work)

    def _facts(self, warm: LoadedModel, job: SampleJob, denoised: Denoised) -> dict[str, Any]:
        """What the receipt says about model, LoRA and machine."""
        return {
            "model": {"fingerprint": warm.fingerprint, **job.model.model_dump(mode="json", exclude_defaults=True)},
            **warm.loras.facts(),
            "dtype": name_of(warm.base.dtype),
            "stored_as": placement.stored_as(warm.base),
            "offloaded": warm.offloaded,
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
