"""Latents out of noise."""

from __future__ import annotations

from dataclasses import replace

import torch

from rushes_service.engine import placement
from rushes_service.engine.ahead.batch import Other, SampleBatch, denoised_together
from rushes_service.engine.context import SampleContext
from rushes_service.engine.fallback_memory import StageAttempt
from rushes_service.engine.fallbacks import DENOISE, Fallback
from rushes_service.engine.finite import FiniteCheck
from rushes_service.engine.kernels.attention import Attention
from rushes_service.engine.kernels.compiling import BlockCompiler, compiling
from rushes_service.engine.kernels.drafting import Draft
from rushes_service.engine.loaded import LoadedModel
from rushes_service.engine.stages.loading import BaseModels
from rushes_service.engine.stages.shared import Shared
from rushes_service.models.base import Denoised
from rushes_service.models.conditioning import Conditioning


class Denoising:
    """One engine's way to denoise: its kernels, and the small samples that share a batch.

    Args:
        models: asked for room when memory runs out.
    """

    def __init__(
        self, shared: Shared, models: BaseModels, attention: Attention, compiler: BlockCompiler | None
    ) -> None:
        self.batch = SampleBatch()
        self._shared = shared
        self.base_models = models
        self._attention = attention
        self._compiler = compiler

    def run(self, loaded: LoadedModel, conditioning: Conditioning, context: SampleContext) -> Denoised:
        """The latents of a sample, made in less memory if it runs out.

        Raises:
            NonFiniteLatents, OutOfMemory, WorkerUnfit, SampleStopped: see `Engine.denoise`.
        """
        attempt = self._shared.attempt("denoise", context.shape, DENOISE, context)
        return attempt.run(
            lambda fallback: self._denoise(loaded, conditioning, context, fallback, attempt), self.base_models.make_room
        )

    def _denoise(
        self,
        loaded: LoadedModel,
        conditioning: Conditioning,
        context: SampleContext,
        fallback: Fallback,
        attempt: StageAttempt,
    ) -> Denoised:
        base = loaded.base
        if fallback is not DENOISE[0]:
            base.batching = "off"  # guidance in two calls takes less memory, too
        if fallback.offload and not loaded.offloaded:
            self.base_models.offload(loaded, context, attempt)
        context.watch.stage("denoise", base.total_steps(context.parameters))
        with (
            self._shared.using(loaded, "denoise", context, "denoising"),
            self._shared.reader.reading(loaded.loras, context),
        ):
            finite = FiniteCheck(self._shared.device, context.parameters.lora_multiplier)
            draft = Draft.of(context.job, context.parameters)

            def on_step(done: int, total: int, latents: torch.Tensor) -> None:
                finite.step(done, total, latents)
                draft.step_ended(done, total)
                context.watch.step(done, total)

            attention = self._attention.choose(base.dtype, masks=base.uses_masks(conditioning))
            beside = self._others(loaded, conditioning, context) if fallback is DENOISE[0] else []
            with (
                attention.backend.active(),
                compiling(self._compiler, loaded, eager=draft.asked) as compiled,
                draft.active(placement.transformers_of(base)),
            ):
                made = denoised_together(base, conditioning, context, beside, on_step)
            finite.finish()
            context.notes = tuple(filter(None, [draft.warning(), attention.warning]))
            how = {"attention": attention.backend.name, **compiled, **draft.facts()}
            denoised, *more = (replace(each, facts={**each.facts, **how}) for each in made)
            self.batch.keep(beside, more, context.notes)
            return denoised

    def _others(self, loaded: LoadedModel, conditioning: Conditioning, context: SampleContext) -> list[Other]:
        """Samples that are to be denoised beside this one."""
        # Drafts are made alone: the cache would decide for all samples of a batch at once.
        if loaded.offloaded or self._shared.needs_all_memory(context) or context.job.draft is not None:
            return []
        with self._shared.encoders.session():
            return self.batch.others(loaded.base, conditioning, context, self._shared.conditioning)
