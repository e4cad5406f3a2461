"""Prompts that wait are encoded beside the one whose turn it is, while the encoders are there.

Their embeddings go to the cache. Whatever is wrong with one of them is told when its own sample is made.
"""

from __future__ import annotations

import logging

from rushes.errors import OutOfMemory, RushesError, SampleStopped, WorkerUnfit
from rushes.families.parameters import resolve
from rushes.families.table import architecture
from rushes.wire.jobs import SampleJob
from rushes_service.engine.context import SampleContext
from rushes_service.models.base import Architecture
from rushes_service.models.conditioning import ConditioningCache
from rushes_service.models.registry import find
from rushes_service.runtime.device_errors import device_errors

logger = logging.getLogger("rushes.worker")


def encode_waiting(base: Architecture, cache: ConditioningCache, context: SampleContext) -> None:
    """Encode the prompts of all samples that wait for the model of `context`; stops where memory runs out.

    Raises:
        WorkerUnfit: the device failed.
        SampleStopped: raised by the watcher of the sample whose turn it is.
    """
    jobs = [job for job in context.waiting() if encoded_alike(job, base, context)]
    for done, job in enumerate(jobs):
        context.watch.step(done, len(jobs))
        try:
            encode_one(base, cache, job)
        except (WorkerUnfit, SampleStopped):
            raise
        except OutOfMemory as error:
            logger.info("waiting prompts are encoded in their own turn: %s", error)
            return
        except Exception as error:  # noqa: BLE001  # that sample's own turn will say so
            known = isinstance(error, RushesError)
            logger.log(
                logging.DEBUG if known else logging.WARNING,
                "step %d, prompt %d is not encoded ahead of its turn: %s",
                job.step,
                job.prompt_index,
                error,
            )


def encoded_alike(job: SampleJob, base: Architecture, context: SampleContext) -> bool:
    """True if what encodes the sample of `context` also encodes `job`: model, and LoRAs of encoders."""
    if job.model.fingerprint != context.job.model.fingerprint:
        return False
    same = (job.checkpoint, job.loras, job.strength) == (
        context.job.checkpoint,
        context.job.loras,
        context.job.strength,
    )
    return same or base.text_loras.empty


def encode_one(base: Architecture, cache: ConditioningCache, job: SampleJob) -> None:
    """Encode the prompt of one sample, as it will be asked for; raises as `Engine.denoise`."""
    parameters, _ = resolve(job.prompt, architecture(job.model.architecture), job.model)
    find(job.model.architecture).check(parameters)
    with device_errors(base.device, "encoding"):
        base.encode(base.completed(parameters), cache)
