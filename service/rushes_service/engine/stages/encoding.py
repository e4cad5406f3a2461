"""Text and pictures, as the model takes them."""

from __future__ import annotations

import contextlib

from rushes_service.engine.ahead.encoding import encode_waiting
from rushes_service.engine.context import SampleContext
from rushes_service.engine.fallbacks import Fallback
from rushes_service.engine.loaded import LoadedModel
from rushes_service.engine.placement import working_on
from rushes_service.engine.stages.shared import Shared
from rushes_service.models.conditioning import Conditioning
from rushes_service.runtime.device_errors import device_errors
from rushes_service.runtime.devices import CPU

ON_CPU = "encoded on the CPU"
"""Variant of embeddings that a CPU has made: it rounds otherwise than a card whose cache it may share."""


def encoded(shared: Shared, loaded: LoadedModel, context: SampleContext, fallback: Fallback) -> Conditioning:
    """The conditioning of a sample, on the engine's device; prompts that wait are encoded as well if it takes encoders.

    Raises:
        InputError, OutOfMemory, WorkerUnfit: see `Architecture.encode`, `device_errors`.
    """
    base, parameters, cache = loaded.base, context.parameters, shared.conditioning
    context.watch.stage("encode")
    with contextlib.ExitStack() as stack:
        stack.enter_context(shared.locks.compute_lock)
        stack.enter_context(shared.locks.vae_lock)
        stack.enter_context(context.clock.timing("encode"))
        stack.enter_context(device_errors(shared.device, "encoding"))
        stack.enter_context(shared.kept.relieving(shared.device, loaded))  # encoders come by way of host memory
        if fallback.transformer_on_cpu:
            # Only when something is encoded: a cached prompt needs no room.
            make_room = contextlib.ExitStack()
            stack.enter_context(make_room)
            stack.enter_context(cache.before_computing(lambda: make_room.enter_context(loaded.transformer_on_cpu())))
        place = CPU if fallback.encoders_on_cpu else shared.device
        if fallback.encoders_on_cpu:  # what a CPU engine encodes is marked by its cache
            stack.enter_context(cache.variant(ON_CPU))
        with working_on(base, place), shared.encoders.session():
            found = base.encode(parameters, cache)
            if shared.encoders.in_use:
                encode_waiting(base, cache, context)
        conditioning = {name: tensor.to(shared.device) for name, tensor in found.items()}
        return base.encode_images(parameters, conditioning, context.job.vae)
