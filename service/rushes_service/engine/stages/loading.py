"""The base model that is loaded, and the LoRAs that are merged into it."""

from __future__ import annotations

import logging

from rushes.errors import OutOfMemory
from rushes.wire.models import Dtype, ModelSpec
from rushes_service.engine import placement
from rushes_service.engine.context import SampleContext
from rushes_service.engine.fallback_memory import StageAttempt
from rushes_service.engine.fallbacks import LOAD, LORA, Fallback
from rushes_service.engine.kernels.compiling import BlockCompiler
from rushes_service.engine.loaded import LoadedModel, load_model
from rushes_service.engine.stages.shared import Shared
from rushes_service.models.loading.files.hashes import FILE_HASHES_DIR, FileHashCache
from rushes_service.runtime.device_errors import device_errors
from rushes_service.runtime.device_memory import free_memory
from rushes_service.runtime.devices import CPU, resolve_dtype

logger = logging.getLogger("rushes.worker")


class BaseModels:
    """The base model of one engine.

    Args:
        dtype: precision of the transformer for jobs that name none.
        offload: the transformer's blocks are on the device only as they compute.
        compiler: of the transformer's blocks, see `compiling`.
    """

    def __init__(self, shared: Shared, dtype: Dtype | None, *, offload: bool, compiler: BlockCompiler | None) -> None:
        self.loaded: LoadedModel | None = None
        self._shared = shared
        self._dtype = dtype
        self._offload = offload
        self._compiler = compiler

    def unload(self) -> None:
        """Give the memory of the base model back, and that of those which are kept."""
        self._shared.reader.wait()
        self.loaded = None
        self._shared.kept.give_back()
        free_memory(self._shared.device)

    def relieve(self) -> None:
        """Give back what is kept in host memory for later, if that is short; called now and then."""
        self._shared.encoders.relieve()
        if self.loaded is not None:
            self._shared.reader.relieve(self.loaded.loras)
        self._shared.kept.relieve(self.loaded)

    def make_room(self) -> None:
        """Free what can be freed, after memory ran out."""
        shared = self._shared
        shared.locks.wait_for_decoding()
        if self.loaded is not None:
            with shared.locks.compute_lock:
                self.loaded.loras.leave_device()
        if shared.device == CPU:
            shared.encoders.give_back()  # elsewhere they are not where memory ran out
            shared.kept.give_back()
            if self.loaded is not None:
                self.loaded.loras.ahead.forget()
        free_memory(shared.device)

    def load(self, context: SampleContext) -> LoadedModel:
        """The base model of a job, loaded unless it is there already and can be used.

        Raises:
            InputError, OutOfMemory, WorkerUnfit: see `load_model`, `device_errors`.
        """
        if self.loaded is not None and self._usable(self.loaded, context):
            return self.loaded
        self._shared.locks.wait_for_decoding()
        attempt = self._shared.attempt("load", context.model_shape, LOAD, context)
        self.loaded = attempt.run(lambda fallback: self._load(context, fallback, attempt), self.make_room)
        self._shared.kept.trim(self.loaded)
        return self.loaded

    def _load(self, context: SampleContext, fallback: Fallback, attempt: StageAttempt) -> LoadedModel:
        shared, model = self._shared, context.job.model
        context.watch.stage("load")
        with (
            shared.locks.compute_lock,
            context.clock.timing("load"),
            device_errors(shared.device, "loading the model"),
        ):
            self._make_way(model.fingerprint)
            with shared.kept.relieving(shared.device):
                return self._returned(model.fingerprint, fallback) or self._read(model, fallback, attempt)

    def _make_way(self, wanted: str) -> None:
        """Let the loaded model go; another than the wanted one is kept, if there is room."""
        shared = self._shared
        shared.reader.wait()
        leaving, self.loaded = self.loaded, None  # half moved it is of no use
        may_stay = shared.partners.keeping and not shared.locks.registered
        if leaving is not None and leaving.fingerprint != wanted and may_stay:
            try:
                with device_errors(shared.device, "moving a model to host memory"):
                    shared.kept.keep(leaving, wanted)
            except (OutOfMemory, ValueError) as error:
                logger.warning("%s is not kept: %s", leaving.spec.label, error)
        del leaving
        free_memory(shared.device)
        shared.encoders.relieve()

    def _returned(self, fingerprint: str, fallback: Fallback) -> LoadedModel | None:
        """A model that was kept, back on the device; None if it must be loaded. Raises the device's errors."""
        kept = self._shared.kept.take(fingerprint)
        if kept is None or (fallback.offload and not kept.offloaded) or self._may_fit(kept):
            del kept
            free_memory(CPU)
            return None
        try:
            kept.enter()
        except BaseException:
            self._shared.kept.put_back(kept)
            raise
        logger.info("%s is back from host memory", kept.spec.label)
        return kept

    def _read(self, model: ModelSpec, fallback: Fallback, attempt: StageAttempt) -> LoadedModel:
        """A model that is loaded from its files."""
        shared = self._shared
        loaded = load_model(
            model,
            shared.device,
            resolve_dtype(model.dtype or self._dtype, shared.device),
            FileHashCache(shared.conditioning.directory / FILE_HASHES_DIR),
            offload=self._offload or fallback.offload,
            decode_device=shared.decode_device,
        )
        loaded.base.encoders = shared.encoders
        loaded.offloaded_by = attempt if fallback.offload else None
        if self._compiler is not None:
            self._compiler.install(placement.transformers_of(loaded.base))
        shared.partners.install(placement.transformers_of(loaded.base))
        return loaded

    def _may_fit(self, loaded: LoadedModel) -> bool:
        """True if a model was offloaded for lack of memory that may be there again."""
        if loaded.offloaded_by is None or self._shared.fallbacks.remembers(loaded.offloaded_by):
            return False
        logger.info("%s is loaded anew: there may be memory for the whole transformer again", loaded.spec.label)
        return True

    def _usable(self, loaded: LoadedModel, context: SampleContext) -> bool:
        """True if a loaded model is the one that is asked for, complete, and where it should be."""
        if loaded.fingerprint != context.job.model.fingerprint:
            return False
        if self._may_fit(loaded):
            return False
        try:
            with self._shared.using(loaded, "load", context, "bringing the transformer back"):
                return True
        except OutOfMemory as error:
            logger.warning("%s; it is loaded anew", error)
            return False

    def prepare(self, loaded: LoadedModel, context: SampleContext) -> None:
        """Bring the weights to the job's LoRAs and strengths, in less memory if it runs out.

        Raises:
            InputError, OutOfMemory, WorkerUnfit: see `LoraManager.apply`.
        """
        attempt = self._shared.attempt("lora", context.model_shape, LORA, context)

        def prepare(fallback: Fallback) -> None:
            if fallback.offload and not loaded.offloaded:
                self._offload_now(loaded, context, attempt)
            self._merge(loaded, context)

        attempt.run(prepare, self.make_room)

    def _merge(self, loaded: LoadedModel, context: SampleContext) -> None:
        """Bring the weights to the job's LoRAs and strengths."""
        context.watch.stage("lora")
        with self._shared.using(loaded, "lora", context, "merging the LoRA"):
            loaded.loras.apply(
                context.requested,
                allow_partial=context.job.allow_partial_lora,
                allow_other_family=context.job.allow_other_family,
            )
            loaded.base.text_loras = loaded.loras.texts

    def offload(self, loaded: LoadedModel, context: SampleContext, attempt: StageAttempt) -> None:
        """Offload a model that is in use, until memory is back; the job's LoRAs are merged again."""
        self._offload_now(loaded, context, attempt)
        self._merge(loaded, context)

    def _offload_now(self, loaded: LoadedModel, context: SampleContext, attempt: StageAttempt) -> None:
        logger.warning("out of memory: %s is offloaded block by block", context.job.model.label)
        context.watch.stage("lora")
        try:
            with self._shared.locks.compute_lock, device_errors(self._shared.device, "offloading the model"):
                loaded.offload(attempt)
        except BaseException:
            self.loaded = None  # half offloaded it is of no use
            raise
