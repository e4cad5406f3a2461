"""Devices, precisions, and what their errors mean."""

from __future__ import annotations

import contextlib
import resource
import sys
from collections.abc import Iterator

import psutil
import torch

from rushes.errors import ConfigError, OutOfMemory, WorkerUnfit, first_line

DTYPES: dict[str, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

MEMORY_SIGNS = ("out of memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")
FATAL_SIGNS = ("CUDA error", "CUBLAS_STATUS", "CUDNN_STATUS", "cuDNN error", "HIP error", "device-side assert")
"""Phrases of `RuntimeError`s after which nothing that the device computes can be trusted."""


def resolve_device(name: str) -> torch.device:
    """`auto` is the first GPU if there is one, else the CPU.

    Raises:
        ConfigError: no such device.
    """
    if name == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"device {name!r} is unknown; write auto, cpu or cuda:0") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"device {name} is not there: {torch.cuda.device_count()} CUDA devices are visible")
    return device


def resolve_dtype(asked: str | None, device: torch.device) -> torch.dtype:
    """The precision of the transformer: as asked for, else bfloat16 on a GPU and float32 on the CPU."""
    if asked is not None:
        return DTYPES[asked]
    return torch.float32 if device.type == "cpu" else torch.bfloat16


def name_of(dtype: torch.dtype) -> str:
    """A precision in a word, as `Dtype` writes it."""
    return str(dtype).removeprefix("torch.")


@contextlib.contextmanager
def device_errors(device: torch.device, doing: str) -> Iterator[None]:
    """Translate the device's errors.

    Raises:
        OutOfMemory: the device, or the host, has too little memory for `doing`.
        WorkerUnfit: the device failed; the process must not go on.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise out_of_memory(device, doing, error) from error
    except RuntimeError as error:
        text = str(error)
        if any(sign in text for sign in MEMORY_SIGNS):
            raise out_of_memory(device, doing, error) from error
        if type(error).__name__ == "AcceleratorError" or any(sign in text for sign in FATAL_SIGNS):
            raise WorkerUnfit(f"{device} failed while {doing}: {first_line(error)}") from error
        raise


def out_of_memory(device: torch.device, doing: str, error: BaseException) -> OutOfMemory:
    """The error to raise, after giving cached blocks back."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    advice = "use a smaller --w, --h or --f, or --vae_tiling"
    return OutOfMemory(f"{device} ran out of memory while {doing}: {advice} ({first_line(error)})")


def reset_peak_memory(device: torch.device) -> None:
    """Start measuring a sample's peak memory."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory(device: torch.device) -> dict[str, int | str]:
    """Peak memory in bytes: of the sample on a GPU, of the whole process (since it started) on the CPU."""
    if device.type == "cuda":
        return {"bytes": torch.cuda.max_memory_allocated(device), "of": "device"}
    unit = 1 if sys.platform == "darwin" else 1024
    return {"bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit, "of": "process"}


def memory_now(device: torch.device) -> dict[str, int]:
    """Bytes as a worker announces them, by the names it does so.

    `memory` is what this process holds and `memory_peak` the most that `peak_memory` means; `memory_used`, by
    whomever, and `memory_total` are of the whole GPU, or of the machine on the CPU.
    """
    peak = int(peak_memory(device)["bytes"])
    if device.type == "cuda":
        held = torch.cuda.memory_allocated(device)
        free, total = torch.cuda.mem_get_info(device)
    else:
        held, machine = psutil.Process().memory_info().rss, psutil.virtual_memory()
        free, total = machine.available, machine.total
    return {"memory": held, "memory_peak": peak, "memory_used": total - free, "memory_total": total}
