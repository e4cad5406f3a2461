"""Small samples of one checkpoint are denoised in the batch of the first of them.

The others are not reserved meanwhile: their latents wait here until their own turn, in which each has its lease, its
progress, its decode and its receipt. One that is cancelled, or that another worker takes, was computed in vain.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

import torch

from rushes.errors import SampleStopped, WorkerUnfit
from rushes.families.parameters import SampleParameters, resolve
from rushes.families.table import architecture
from rushes.wire.jobs import SampleJob
from rushes_service.engine.context import SampleContext
from rushes_service.models.base import Architecture, Denoised, OnStep
from rushes_service.models.conditioning import Conditioning, ConditioningCache
from rushes_service.models.registry import find

logger = logging.getLogger("rushes.worker")


@dataclass(frozen=True)
class Other:
    """A sample that is denoised before its turn."""

    key: tuple[Hashable, str]
    parameters: SampleParameters
    conditioning: Conditioning
    batch_key: Hashable


class SampleBatch:
    """Latents of samples of one checkpoint whose turn has not come."""

    def __init__(self) -> None:
        self._made: dict[tuple[Hashable, str], tuple[Denoised, tuple[str, ...]]] = {}

    def forget(self) -> None:
        """Give back the memory."""
        self._made = {}

    def take(self, context: SampleContext, steps: int) -> Denoised | None:
        """The sample of `context`, of `steps` steps, if it has been made; forgets those of other checkpoints."""
        state = weights_key(context.job)
        self._made = {key: made for key, made in self._made.items() if key[0] == state}
        found = self._made.pop((state, context.parameters.model_dump_json()), None)
        if found is None:
            return None
        denoised, context.notes = found
        context.watch.stage("denoise", steps)
        context.watch.step(steps, steps)
        return denoised

    def keep(self, beside: Sequence[Other], made: Sequence[Denoised], notes: tuple[str, ...]) -> None:
        """Keep what was made of samples until their turn, with the warnings about how."""
        for other, denoised in zip(beside, made, strict=True):
            # What diverged is made again in its own turn, step by step, to say where it does.
            if torch.isfinite(denoised.latents).all():
                self._made[other.key] = denoised, notes

    def others(
        self, base: Architecture, conditioning: Conditioning, context: SampleContext, cache: ConditioningCache
    ) -> list[Other]:
        """Samples that wait and can be denoised in one batch with that of `context`.

        Raises:
            WorkerUnfit, SampleStopped: from the device, or the watcher.
        """
        key = base.batch_key(context.parameters, conditioning)
        most = 1 if key is None else base.most_together(context.parameters, conditioning)
        found: list[Other] = []
        if most < 2:
            return found
        state = weights_key(context.job)
        for job in context.waiting():
            if len(found) + 1 >= most:
                break
            if job.id == context.job.id or weights_key(job) != state:
                continue
            other = prepared(base, job, cache)
            if other is not None and other.key not in self._made and other.batch_key == key:
                found.append(other)
        return found


def denoised_together(
    base: Architecture, conditioning: Conditioning, context: SampleContext, beside: Sequence[Other], on_step: OnStep
) -> list[Denoised]:
    """The sample of `context` and those beside it, whose steps are reported; raises as `Architecture.denoise`."""
    if not beside:
        return [base.denoise(context.parameters, conditioning, on_step)]
    samples = [(context.parameters, conditioning), *((other.parameters, other.conditioning) for other in beside)]
    made = base.denoise_together(samples, lambda done, total, latents: on_step(done, total, latents[:1]))
    about = {"batch": {"samples": len(samples), "denoised_with": context.job.id}}
    return [replace(each, facts={**each.facts, **about}) for each in made]


def weights_key(job: SampleJob) -> Hashable:
    """What the weights, the source of noise and the exactness of a sample depend on."""
    checkpoint = (job.checkpoint.fingerprint, job.checkpoint.expert) if job.checkpoint is not None else None
    loras = tuple((lora.fingerprint, lora.expert, lora.strength) for lora in job.loras)
    allowed = job.allow_partial_lora, job.allow_other_family
    return job.model.fingerprint, checkpoint, loras, job.strength, allowed, job.noise, job.draft


def prepared(base: Architecture, job: SampleJob, cache: ConditioningCache) -> Other | None:
    """A sample that waits, ready to be denoised; None if something is wrong with it, which its own turn will tell.

    Raises:
        WorkerUnfit, SampleStopped: from the device, or the watcher.
    """
    try:
        parameters, _ = resolve(job.prompt, architecture(job.model.architecture), job.model)
        find(job.model.architecture).check(parameters)
        parameters = base.completed(parameters)
        conditioning = base.encode(parameters, cache)
    except (WorkerUnfit, SampleStopped):
        raise
    except Exception as error:  # noqa: BLE001  # its own turn will say so
        logger.debug("sample %s is made in its own turn: %s", job.id, error)
        return None
    key = weights_key(job), parameters.model_dump_json()
    return Other(key, parameters, conditioning, base.batch_key(parameters, conditioning))
