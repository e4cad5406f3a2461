"""The engine: one loaded base model, its LoRA state, and the stages that turn a job into a picture.

    load (if another base model is loaded) -> merge the LoRA (if it changed) -> encode (cached) -> denoise -> decode

One thread makes one sample at a time; a second thread may decode the previous one. A stage that runs out of memory is
repeated in a way that needs less (see `fallbacks`). After any error (a wrong file, a full device, a cancelled sample)
the engine stays usable and the base weights stay exact.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from rushes.errors import OutOfMemory
from rushes.families.parameters import resolve
from rushes.families.table import architecture
from rushes.wire.jobs import SampleJob
from rushes.wire.models import Dtype
from rushes_service.engine import placement
from rushes_service.engine.ahead.batch import Other, SampleBatch, denoised_together
from rushes_service.engine.ahead.checkpoints import CheckpointReader
from rushes_service.engine.ahead.encoding import encode_waiting
from rushes_service.engine.context import SampleContext, Waiting, nothing_waits
from rushes_service.engine.fallback_memory import FallbackMemory, StageAttempt
from rushes_service.engine.fallbacks import DENOISE, ENCODE, LOAD, LORA, Fallback, decode_fallbacks
from rushes_service.engine.finite import FiniteCheck
from rushes_service.engine.kernels.attention import AUTO, Attention
from rushes_service.engine.kernels.compiling import BlockCompiler, compiling
from rushes_service.engine.loaded import LoadedModel, load_model
from rushes_service.engine.locks import EngineLocks
from rushes_service.engine.placement import working_on
from rushes_service.engine.progress import ProgressCallback
from rushes_service.engine.receipt import device_name, versions
from rushes_service.engine.sample import Decoding, DenoisedSample
from rushes_service.engine.streams import DecodeStream
from rushes_service.lora.manager import requested_loras
from rushes_service.models.base import Denoised
from rushes_service.models.conditioning import Conditioning, ConditioningCache
from rushes_service.models.encoder_store import EncoderStore
from rushes_service.models.loading.files.hashes import FILE_HASHES_DIR, FileHashCache
from rushes_service.models.registry import find
from rushes_service.runtime.available_memory import MemoryGate, available_bytes
from rushes_service.runtime.device_errors import device_errors
from rushes_service.runtime.device_memory import PeakMeters, free_memory, memory_now
from rushes_service.runtime.devices import CPU, allow_tf32, resolve_device, resolve_dtype
from rushes_service.settings import Batching
from rushes_service.storage.disk_cache import CONDITIONING_DIR

logger = logging.getLogger("rushes.worker")

ON_CPU = "encoded on the CPU"
"""Variant of embeddings that a CPU has made: it rounds otherwise than a card whose cache it may share."""


class Engine:
    """Samples jobs on one device, keeping the last base model loaded.

    Args:
        device: "auto", "cpu" or "cuda:0".
        cache_dir: where conditioning is kept between runs.
        dtype: precision of the transformer for jobs that name none; by default that of `resolve_dtype`.
        cache_bytes: what the conditioning may take on disk; None is any amount.
        offload: keep the transformer in host memory and bring its blocks to the device as they compute.
        attention: "auto", or a name of `attention.BACKENDS`.
        tf32: convolutions in float32 may use TF32, as with PyTorch's defaults; see `allow_tf32`.
        decode_device: decode there, if not on `device`; "cuda:1" for example.
        min_free_gib: GiB of the device that must be available before a sample begins; until then it waits.
        compiled: run the transformer's blocks by compiled graphs, see `compiling`.
        batching: whether small samples, and their guidance, are denoised in one batch.
        encoder_bytes: host memory for encoders between prompts, see `EncoderStore`; None is as much as there is.
        measure: bytes that this process could use on a device.

    Raises:
        ConfigError: there is no such device, or no such attention.
    """

    def __init__(
        self,
        device: str,
        cache_dir: Path,
        dtype: Dtype | None = None,
        *,
        cache_bytes: int | None = None,
        offload: bool = False,
        attention: str = AUTO,
        tf32: bool = True,
        decode_device: str | None = None,
        min_free_gib: float = 0.0,
        compiled: bool = False,
        batching: Batching = "auto",
        encoder_bytes: int | None = None,
        measure: Callable[[torch.device], int] = available_bytes,
    ) -> None:
        other = resolve_device(decode_device) if decode_device else None
        self.device = resolve_device(device)  # the last one is the current one
        self.decode_device = other or self.device
        usual = ON_CPU if self.device.type == "cpu" else None
        self.conditioning = ConditioningCache(cache_dir / CONDITIONING_DIR, cache_bytes, usual)
        self.encoders = EncoderStore(encoder_bytes)
        self.fallbacks = FallbackMemory(lambda: measure(self.device))
        self._dtype = dtype
        self._offload = offload
        self._tf32 = allow_tf32(tf32) if self.device.type == "cuda" else None
        self._attention = Attention(self.device, attention)
        self.reader = CheckpointReader(self.device)
        self.batching: Batching = batching
        self.batch = SampleBatch()
        self._memory_gate = MemoryGate(min_free_gib, self.device, measure)
        self.compiler = BlockCompiler() if compiled else None
        self._locks = EngineLocks()
        self._peaks = PeakMeters(self.device)
        self._decode_stream = DecodeStream(self.decode_device)
        self._loaded: LoadedModel | None = None

    @property
    def loaded_model(self) -> str | None:
        """Fingerprint of the `ModelSpec` that is loaded."""
        return self._loaded.fingerprint if self._loaded else None

    @property
    def memory(self) -> dict[str, int]:
        """Bytes held, at most, used by everybody, and in all: see `memory_now`. Raises `WorkerUnfit`."""
        with device_errors(self.device, "asking for its memory"):
            return memory_now(self.device, self._peaks.note())

    def unload(self) -> None:
        """Give the base model's memory back."""
        self.reader.wait()
        self.batch.forget()
        self._loaded = None
        free_memory(self.device)

    def relieve(self) -> None:
        """Give back what is kept in host memory for later, if that is short; called now and then."""
        self.encoders.relieve()
        if self._loaded is not None:
            self.reader.relieve(self._loaded.loras)

    def denoise(self, job: SampleJob, watch: ProgressCallback, waiting: Waiting = nothing_waits) -> DenoisedSample:
        """Make the latents of `job`.

        Args:
            waiting: samples that are made later, with files under this machine's paths. If an encoder is needed, the
                prompts of those with the same model are encoded as well.

        Raises:
            InputError: the job, its checkpoint or its base model is wrong (see `rushes.errors`).
            NonFiniteLatents: the checkpoint makes NaN or infinity.
            OutOfMemory, WorkerUnfit: the device failed.
            SampleStopped: raised by `watch`.
        """
        parameters, warnings = resolve(job.prompt, architecture(job.model.architecture), job.model)
        find(job.model.architecture).check(parameters)
        requested = requested_loras(job)
        self._memory_gate.wait(watch)
        with device_errors(self.device, "sampling"):
            peak = self._peaks.begin()
            try:
                warned = tuple(warnings)
                return self._denoised(SampleContext(job, parameters, requested, watch, warned, peak, waiting))
            except BaseException:
                peak.end()
                raise

    def _denoised(self, context: SampleContext) -> DenoisedSample:
        """All stages but the decode."""
        if self._needs_all_memory(context):
            self._locks.wait_for_decoding()
        loaded = self._load(context)
        loaded.base.noise_source = context.job.noise
        # Each size of a batch would be another graph.
        loaded.base.batching = "off" if self.compiler is not None else self.batching
        context.parameters = loaded.base.completed(context.parameters)
        self._prepare(loaded, context)
        if (made := self.batch.take(context, loaded.base.total_steps(context.parameters))) is not None:
            return self._sample(loaded, made, context)
        conditioning = self._attempt("encode", context.shape, ENCODE, context).run(
            lambda fallback: self._encode(loaded, context, fallback), self._make_room
        )
        attempt = self._attempt("denoise", context.shape, DENOISE, context)
        denoised = attempt.run(
            lambda fallback: self._denoise(loaded, conditioning, context, fallback, attempt), self._make_room
        )
        return self._sample(loaded, denoised, context)

    def _sample(self, loaded: LoadedModel, denoised: Denoised, context: SampleContext) -> DenoisedSample:
        """The denoised sample, with all that its decode and its receipt need."""
        if denoised.frame_count is not None:
            context.parameters = context.parameters.model_copy(update={"frame_count": denoised.frame_count})
        job, parameters = context.job, context.parameters
        ways = decode_fallbacks(
            job.vae,
            parameters.width,
            parameters.height,
            chunked=loaded.base.chunked,
            apart=self.decode_device != self.device,
        )
        decode = self.fallbacks.attempt("decode", context.shape, ways)
        about_model = (*loaded.warnings, *loaded.base.file_hashes.warnings, *loaded.base.warnings(parameters, job.vae))
        return DenoisedSample(
            parameters,
            denoised.latents,
            Decoding(loaded, job.vae, decode, self._locks, self._decode_stream),
            watch=context.watch,
            clock=context.clock,
            peak=context.peak,
            earlier=tuple(context.attempts),
            warnings=(*context.warnings, *context.notes, *denoised.warnings, *about_model, *loaded.loras.warnings),
            facts={
                **loaded.facts(),
                "device": device_name(self.device),
                **({"decode_device": device_name(self.decode_device)} if self.decode_device != self.device else {}),
                **({"tf32": self._tf32} if self._tf32 is not None else {}),
                "noise": job.noise,
                "vae": job.vae.model_dump(mode="json", exclude_defaults=True),
                **denoised.facts,
                "versions": versions(),
            },
            overlaps=not (loaded.offloaded or self._needs_all_memory(context)),
        )

    def _needs_all_memory(self, context: SampleContext) -> bool:
        """True if samples of this shape ran out of memory lately: they are made with no other beside them."""
        return self.fallbacks.needed(context.shape) or self.fallbacks.needed(context.model_shape)

    def _attempt(
        self, stage: str, shape: tuple[object, ...], fallbacks: Sequence[Fallback], context: SampleContext
    ) -> StageAttempt:
        """An attempt at one stage, to be told of in the receipt."""
        attempt = self.fallbacks.attempt(stage, shape, fallbacks)
        context.attempts.append(attempt)
        return attempt

    def _make_room(self) -> None:
        """Free what can be freed, after memory ran out."""
        self._locks.wait_for_decoding()
        if self._loaded is not None:
            with self._locks.compute_lock:
                self._loaded.loras.leave_device()
        if self.device == CPU:
            self.encoders.give_back()  # elsewhere they are not where memory ran out
            if self._loaded is not None:
                self._loaded.loras.ahead.forget()
        free_memory(self.device)

    @contextlib.contextmanager
    def _using(self, loaded: LoadedModel, stage: str, context: SampleContext, doing: str) -> Iterator[None]:
        """Around each use of the transformer: alone, timed, errors translated, and all parts in their places."""
        with self._locks.compute_lock, context.clock.timing(stage), device_errors(self.device, doing):
            loaded.settle()
            yield

    def _load(self, context: SampleContext) -> LoadedModel:
        """The base model of a job, loaded unless it is there already and can be used."""
        if self._loaded is not None and self._usable(self._loaded, context):
            return self._loaded
        self._locks.wait_for_decoding()
        self.unload()
        self.encoders.relieve()
        attempt = self._attempt("load", context.model_shape, LOAD, context)

        def load(fallback: Fallback) -> LoadedModel:
            model, offload = context.job.model, self._offload or fallback.offload
            context.watch.stage("load")
            with (
                self._locks.compute_lock,
                context.clock.timing("load"),
                device_errors(self.device, "loading the model"),
            ):
                dtype = resolve_dtype(model.dtype or self._dtype, self.device)
                file_hashes = FileHashCache(self.conditioning.directory / FILE_HASHES_DIR)
                loaded = load_model(
                    model, self.device, dtype, file_hashes, offload=offload, decode_device=self.decode_device
                )
            loaded.base.encoders = self.encoders
            loaded.offloaded_by = attempt if fallback.offload else None
            if self.compiler is not None:
                self.compiler.install(placement.transformers_of(loaded.base))
            return loaded

        self._loaded = attempt.run(load, self._make_room)
        return self._loaded

    def _usable(self, loaded: LoadedModel, context: SampleContext) -> bool:
        """True if a loaded model is the one that is asked for, complete, and where it should be."""
        if loaded.fingerprint != context.job.model.fingerprint:
            return False
        if loaded.offloaded_by is not None and not self.fallbacks.remembers(loaded.offloaded_by):
            logger.info("%s is loaded anew: there may be memory for the whole transformer again", loaded.spec.label)
            return False
        try:
            with self._using(loaded, "load", context, "bringing the transformer back"):
                return True
        except OutOfMemory as error:
            logger.warning("%s; it is loaded anew", error)
            return False

    def _prepare(self, loaded: LoadedModel, context: SampleContext) -> None:
        """Bring the weights to the job's LoRAs and strengths, in less memory if it runs out."""
        attempt = self._attempt("lora", context.model_shape, LORA, context)

        def prepare(fallback: Fallback) -> None:
            if fallback.offload and not loaded.offloaded:
                self._offload_now(loaded, context, attempt)
            self._merge(loaded, context)

        attempt.run(prepare, self._make_room)

    def _merge(self, loaded: LoadedModel, context: SampleContext) -> None:
        """Bring the weights to the job's LoRAs and strengths."""
        context.watch.stage("lora")
        with self._using(loaded, "lora", context, "merging the LoRA"):
            loaded.loras.apply(
                context.requested,
                allow_partial=context.job.allow_partial_lora,
                allow_other_family=context.job.allow_other_family,
            )
            loaded.base.text_loras = loaded.loras.texts

    def _encode(self, loaded: LoadedModel, context: SampleContext, fallback: Fallback) -> Conditioning:
        """Text and pictures, as the model takes them."""
        base, parameters = loaded.base, context.parameters
        context.watch.stage("encode")
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._locks.compute_lock)
            stack.enter_context(self._locks.vae_lock)
            stack.enter_context(context.clock.timing("encode"))
            stack.enter_context(device_errors(self.device, "encoding"))
            if fallback.transformer_on_cpu:
                # Only when something is encoded: a cached prompt needs no room.
                make_room = contextlib.ExitStack()
                stack.enter_context(make_room)
                stack.enter_context(
                    self.conditioning.before_computing(lambda: make_room.enter_context(loaded.transformer_on_cpu()))
                )
            place = CPU if fallback.encoders_on_cpu else self.device
            if place.type == "cpu":
                stack.enter_context(self.conditioning.variant(ON_CPU))
            with working_on(base, place), self.encoders.session():
                encoded = base.encode(parameters, self.conditioning)
                if self.encoders.in_use:
                    encode_waiting(base, self.conditioning, context)
            conditioning = {name: tensor.to(self.device) for name, tensor in encoded.items()}
            return base.encode_images(parameters, conditioning, context.job.vae)

    def _denoise(
        self,
        loaded: LoadedModel,
        conditioning: Conditioning,
        context: SampleContext,
        fallback: Fallback,
        attempt: StageAttempt,
    ) -> Denoised:
        """Latents out of noise."""
        base, parameters = loaded.base, context.parameters
        if fallback.offload and not loaded.offloaded:
            self._offload_now(loaded, context, attempt)
            self._merge(loaded, context)
        context.watch.stage("denoise", base.total_steps(parameters))
        with (
            self._using(loaded, "denoise", context, "denoising"),
            self.reader.reading(loaded.loras, context),
        ):
            finite = FiniteCheck(self.device, parameters.lora_multiplier)

            def on_step(done: int, total: int, latents: torch.Tensor) -> None:
                finite.step(done, total, latents)
                context.watch.step(done, total)

            attention = self._attention.choose(base.dtype, masks=base.uses_masks(conditioning))
            beside = self._others(loaded, conditioning, context) if fallback is DENOISE[0] else []
            with attention.backend.active(), compiling(self.compiler, loaded) as compiled:
                made = denoised_together(base, conditioning, context, beside, on_step)
            finite.finish()
            context.notes = tuple(filter(None, [attention.warning]))
            how = {"attention": attention.backend.name, **compiled}
            denoised, *more = (replace(each, facts={**each.facts, **how}) for each in made)
            self.batch.keep(beside, more, context.notes)
            return denoised

    def _others(self, loaded: LoadedModel, conditioning: Conditioning, context: SampleContext) -> list[Other]:
        """Samples that are to be denoised beside this one."""
        if loaded.offloaded or self._needs_all_memory(context):
            return []
        with self.encoders.session():
            return self.batch.others(loaded.base, conditioning, context, self.conditioning)

    def _offload_now(self, loaded: LoadedModel, context: SampleContext, attempt: StageAttempt) -> None:
        """Offload a model that is loaded, until memory is back; without its LoRAs."""
        logger.warning("out of memory: %s is offloaded block by block", context.job.model.label)
        context.watch.stage("lora")
        try:
            with self._locks.compute_lock, device_errors(self.device, "offloading the model"):
                loaded.offload(attempt)
        except BaseException:
            self._loaded = None  # half offloaded it is of no use
            raise
