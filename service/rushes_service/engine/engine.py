"""The engine: one loaded base model, its LoRA state, and the stages that turn a job into a picture.

    load (if another base model is loaded) -> merge the LoRA (if it changed) -> encode (cached) -> denoise -> decode

One thread makes one sample at a time; a second thread may decode the previous one. A stage that runs out of memory is
repeated in a way that needs less (see `fallbacks`). After any error (a wrong file, a full device, a cancelled sample)
the engine stays usable and the base weights stay exact.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from rushes.families.drafts import check_draft
from rushes.families.parameters import resolve
from rushes.families.table import architecture
from rushes.wire.jobs import SampleJob
from rushes.wire.models import Dtype
from rushes_service.engine.ahead.checkpoints import CheckpointReader
from rushes_service.engine.context import SampleContext, Waiting, nothing_waits
from rushes_service.engine.fallback_memory import FallbackMemory
from rushes_service.engine.fallbacks import ENCODE, decode_fallbacks
from rushes_service.engine.kept.models import KeptModels
from rushes_service.engine.kernels.attention import AUTO, Attention
from rushes_service.engine.kernels.compiling import BlockCompiler
from rushes_service.engine.kernels.drafting import check_transformers
from rushes_service.engine.loaded import LoadedModel
from rushes_service.engine.locks import EngineLocks
from rushes_service.engine.parallel.partners import Partners
from rushes_service.engine.placement import transformers_of
from rushes_service.engine.progress import NoProgress, ProgressCallback
from rushes_service.engine.receipt import device_name, versions
from rushes_service.engine.sample import Decoding, DenoisedSample
from rushes_service.engine.stages.denoising import Denoising
from rushes_service.engine.stages.encoding import ON_CPU, encoded
from rushes_service.engine.stages.loading import BaseModels
from rushes_service.engine.stages.shared import Shared
from rushes_service.engine.streams import DecodeStream
from rushes_service.lora.manager import requested_loras
from rushes_service.models.base import Denoised
from rushes_service.models.conditioning import ConditioningCache
from rushes_service.models.encoder_store import EncoderStore
from rushes_service.models.registry import find
from rushes_service.runtime.available_memory import MemoryGate, available_bytes
from rushes_service.runtime.device_errors import device_errors
from rushes_service.runtime.device_memory import PeakMeters, memory_now
from rushes_service.runtime.devices import allow_tf32, resolve_device
from rushes_service.settings import Batching
from rushes_service.storage.disk_cache import CONDITIONING_DIR


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
        model_bytes: host memory for base models that are not in use, see `KeptModels`; None is as much as there is.
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
        model_bytes: int | None = None,
        measure: Callable[[torch.device], int] = available_bytes,
    ) -> None:
        other = resolve_device(decode_device) if decode_device else None
        here = resolve_device(device)  # the last one is the current one
        self.device = here
        usual = ON_CPU if here.type == "cpu" else None
        self.shared = shared = Shared(
            here,
            other or here,
            EngineLocks(),
            FallbackMemory(lambda: measure(here)),
            ConditioningCache(cache_dir / CONDITIONING_DIR, cache_bytes, usual),
            EncoderStore(encoder_bytes),
            CheckpointReader(here),
            KeptModels(model_bytes),
        )
        self._tf32 = allow_tf32(tf32) if here.type == "cuda" else None
        self.batching: Batching = batching
        self.compiler = BlockCompiler() if compiled else None
        self.base_models = BaseModels(shared, dtype, offload=offload, compiler=self.compiler)
        self._denoising = Denoising(shared, self.base_models, Attention(here, attention), self.compiler)
        self._memory_gate = MemoryGate(min_free_gib, here, measure)
        self._peaks = PeakMeters(here)
        self._decode_stream = DecodeStream(shared.decode_device)

    @property
    def loaded(self) -> LoadedModel | None:
        """The base model that is loaded."""
        return self.base_models.loaded

    def join(self, partners: Partners) -> None:
        """Compute transformers that are loaded from now on together with other processes."""
        self.shared.partners = partners

    @property
    def conditioning(self) -> ConditioningCache:
        """Embeddings of earlier prompts."""
        return self.shared.conditioning

    @property
    def loaded_model(self) -> str | None:
        """Fingerprint of the `ModelSpec` that is loaded."""
        return self.loaded.fingerprint if self.loaded else None

    @property
    def memory(self) -> dict[str, int]:
        """Bytes held, at most, used by everybody, and in all: see `memory_now`. Raises `WorkerUnfit`."""
        with device_errors(self.device, "asking for its memory"):
            return memory_now(self.device, self._peaks.note())

    def unload(self) -> None:
        """Give the memory of the base model back, and that of those which are kept."""
        self._denoising.batch.forget()
        self.base_models.unload()
        self.shared.partners.unload()

    def relieve(self) -> None:
        """Give back what is kept in host memory for later, if that is short; called now and then."""
        self.base_models.relieve()

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
        if job.draft is not None:
            check_draft(job.model.architecture)
            self.shared.partners.check_draft()
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

    def prepare(self, job: SampleJob) -> LoadedModel:
        """The base model of `job` with its LoRAs in it, for a process that computes a part of another's sample.

        Raises:
            InputError, OutOfMemory, WorkerUnfit: as `denoise`.
        """
        parameters, _ = resolve(job.prompt, architecture(job.model.architecture), job.model)
        requested, peak = requested_loras(job), self._peaks.begin()
        try:
            with device_errors(self.device, "preparing a sample"):
                return self._prepared(SampleContext(job, parameters, requested, NoProgress(), (), peak, nothing_waits))
        finally:
            peak.end()

    def _denoised(self, context: SampleContext) -> DenoisedSample:
        """All stages but the decode."""
        shared = self.shared
        if shared.needs_all_memory(context):
            shared.locks.wait_for_decoding()
        with shared.partners.preparing(context.job):
            loaded = self._prepared(context)
        if (made := self._denoising.batch.take(context, loaded.base.total_steps(context.parameters))) is not None:
            return self._sample(loaded, made, context)
        conditioning = shared.attempt("encode", context.shape, ENCODE, context).run(
            lambda fallback: encoded(shared, loaded, context, fallback), self.base_models.make_room
        )
        return self._sample(loaded, self._denoising.run(loaded, conditioning, context), context)

    def _prepared(self, context: SampleContext) -> LoadedModel:
        """The base model with the sample's LoRAs in it."""
        loaded = self.base_models.load(context)
        if context.job.draft is not None:
            check_transformers(loaded.spec, transformers_of(loaded.base))
        loaded.base.noise_source = context.job.noise
        # Each size of a batch would be another graph, or another part for each device.
        alone = self.compiler is not None or not self.shared.partners.batching
        loaded.base.batching = "off" if alone else self.batching
        context.parameters = loaded.base.completed(context.parameters)
        self.base_models.prepare(loaded, context)
        return loaded

    def _sample(self, loaded: LoadedModel, denoised: Denoised, context: SampleContext) -> DenoisedSample:
        """The denoised sample, with all that its decode and its receipt need."""
        if denoised.frame_count is not None:
            context.parameters = context.parameters.model_copy(update={"frame_count": denoised.frame_count})
        job, parameters, shared = context.job, context.parameters, self.shared
        apart = shared.decode_device != shared.device
        ways = decode_fallbacks(
            job.vae,
            parameters.width,
            parameters.height,
            chunked=loaded.base.chunked,
            apart=apart,
        )
        decode = shared.fallbacks.attempt("decode", context.shape, ways)
        about_model = (*loaded.warnings, *loaded.base.file_hashes.warnings, *loaded.base.warnings(parameters, job.vae))
        return DenoisedSample(
            parameters,
            denoised.latents,
            Decoding(loaded, job.vae, decode, shared.locks, self._decode_stream),
            watch=context.watch,
            clock=context.clock,
            peak=context.peak,
            earlier=tuple(context.attempts),
            warnings=(*context.warnings, *context.notes, *denoised.warnings, *about_model, *loaded.loras.warnings),
            facts={
                **loaded.facts(),
                "device": device_name(self.device),
                **({"decode_device": device_name(shared.decode_device)} if apart else {}),
                **({"tf32": self._tf32} if self._tf32 is not None else {}),
                "noise": job.noise,
                "vae": job.vae.model_dump(mode="json", exclude_defaults=True),
                **denoised.facts,
                **shared.partners.facts(),
                "versions": versions(),
            },
            overlaps=not (loaded.offloaded or shared.needs_all_memory(context)),
        )
