"""What the stages of one engine share."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch

from rushes_service.engine.ahead.checkpoints import CheckpointReader
from rushes_service.engine.context import SampleContext
from rushes_service.engine.fallback_memory import FallbackMemory, StageAttempt
from rushes_service.engine.fallbacks import Fallback
from rushes_service.engine.kept.models import KeptModels
from rushes_service.engine.loaded import LoadedModel
from rushes_service.engine.locks import EngineLocks
from rushes_service.engine.parallel.partners import Partners
from rushes_service.models.conditioning import ConditioningCache
from rushes_service.models.encoder_store import EncoderStore
from rushes_service.runtime.device_errors import device_errors


@dataclass
class Shared:
    """Devices, locks and caches of one engine."""

    device: torch.device
    decode_device: torch.device
    locks: EngineLocks
    fallbacks: FallbackMemory
    conditioning: ConditioningCache
    encoders: EncoderStore
    reader: CheckpointReader
    kept: KeptModels
    partners: Partners = field(default_factory=Partners)

    def needs_all_memory(self, context: SampleContext) -> bool:
        """True if samples of this shape ran out of memory lately: they are made with no other beside them."""
        return self.fallbacks.needed(context.shape) or self.fallbacks.needed(context.model_shape)

    def attempt(
        self, stage: str, shape: tuple[object, ...], fallbacks: Sequence[Fallback], context: SampleContext
    ) -> StageAttempt:
        """An attempt at one stage, to be told of in the receipt."""
        fitting = [fallback for fallback in fallbacks if self.partners.can(fallback)]
        attempt = self.fallbacks.attempt(stage, shape, fitting)
        context.attempts.append(attempt)
        return attempt

    @contextlib.contextmanager
    def using(self, loaded: LoadedModel, stage: str, context: SampleContext, doing: str) -> Iterator[None]:
        """Around each use of the transformer: alone, timed, errors translated, and all parts in their places."""
        with self.locks.compute_lock, context.clock.timing(stage), device_errors(self.device, doing):
            loaded.settle()
            yield
