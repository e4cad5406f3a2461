"""What errors of a device mean: this way does not fit, this sample is wrong, or this process is unusable.

CUDA and cuDNN tell most of it in the text of a `RuntimeError` alone. The phrases are those of PyTorch 2.6 to 2.13.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from enum import Enum

import torch

from rushes.errors import OutOfMemory, WorkerUnfit, first_line
from rushes_service.runtime.per_process import called


class Failure(Enum):
    """What a device's error is about."""

    MEMORY = "memory"
    """There is too little memory: another way, or a smaller sample, may fit."""
    WAY = "way"
    """A kernel cannot do the operation at this size: another way of the same stage may."""
    PROCESS = "process"
    """Nothing that this process computes on the device can be trusted any more."""
    OTHER = "other"
    """No error of the device: it belongs to the sample."""


MEMORY_SIGNS = (
    "out of memory",
    "can't allocate memory",
    "STATUS_ALLOC_FAILED",
    # cuBLAS and cuDNN make a handle, with its workspace, at their first use.
    "STATUS_NOT_INITIALIZED",
)

WAY_SIGNS = (
    "STATUS_NOT_SUPPORTED",
    "CUDNN_STATUS_INTERNAL_ERROR",  # the usual face of too little room for a workspace
    "INT_MAX",
    "32BitIndex",
    "32-bit index",
    "valid execution plans",
    "unable to find an engine",
    "Unable to find a valid cuDNN algorithm",
    "No available kernel",
    "invalid configuration argument",  # a launch with a larger grid than there is; the context survives it
)

HARMLESS_SIGNS = (
    "CUDA error: invalid argument",
    "CUDA error: invalid value",
    "STATUS_INVALID_VALUE",
    "STATUS_BAD_PARAM",
)
"""Refused before anything ran: the context survives."""

PROCESS_SIGNS = (
    "CUDA error",
    "CUBLAS_STATUS",
    "CUDNN_STATUS",
    "CUSOLVER_STATUS",
    "cuDNN error",
    "HIP error",
    "device-side assert",
)


def classify(error: BaseException) -> Failure:
    """What `error` is about."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return Failure.MEMORY
    if not isinstance(error, RuntimeError):
        return Failure.OTHER
    text = str(error)
    for failure, signs in (
        (Failure.MEMORY, MEMORY_SIGNS),
        (Failure.WAY, WAY_SIGNS),
        (Failure.OTHER, HARMLESS_SIGNS),
        (Failure.PROCESS, PROCESS_SIGNS),
    ):
        if any(sign.lower() in text.lower() for sign in signs):
            return failure
    return Failure.PROCESS if type(error).__name__ == "AcceleratorError" else Failure.OTHER


@contextlib.contextmanager
def device_errors(device: torch.device, doing: str) -> Iterator[None]:
    """Translate the device's errors.

    Raises:
        OutOfMemory: `doing` does not fit the memory of the device or the host, or no kernel can do it at this size.
        WorkerUnfit: the device failed; the process must not go on.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        failure = classify(error)
        if failure is Failure.OTHER:
            raise
        raise translated(device, doing, error, failure) from error


def translated(device: torch.device, doing: str, error: BaseException, failure: Failure) -> OutOfMemory | WorkerUnfit:
    """The error to raise in the place of the device's."""
    why, advice = first_line(error), "use a smaller --w, --h or --f, or --vae_tiling"
    if failure is Failure.MEMORY:
        return OutOfMemory(f"{called(device)} ran out of memory while {doing}: {advice} ({why})")
    if failure is Failure.WAY:
        return OutOfMemory(f"{called(device)} has no kernel for so large a sample while {doing}: {advice} ({why})")
    return WorkerUnfit(f"{called(device)} failed while {doing}: {why}")
