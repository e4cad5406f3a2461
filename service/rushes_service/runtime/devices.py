"""Devices and precisions: which one a worker uses, and what is set before its first use."""

from __future__ import annotations

import logging

import torch

from rushes.errors import ConfigError

logger = logging.getLogger("rushes.worker")

DTYPES: dict[str, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

STORED_DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""Precisions of tensors in files, by the names that safetensors has for them."""

CPU = torch.device("cpu")

WRONG_TF32 = range(91002, 91500)
"""Versions of cuDNN with a broken kernel of 3D convolutions in TF32 (pytorch#167024)."""


def cuda_devices() -> int:
    """How many CUDA devices this process sees."""
    return torch.cuda.device_count()


def resolve_device(name: str) -> torch.device:
    """The device called `name`, ready for use; `auto` is the first GPU if there is one, else the CPU.

    A CUDA device always has an index: `cuda` is `cuda:0`, so that it equals the device of its tensors.

    Raises:
        ConfigError: there is no such device.
    """
    if name == "auto":
        name = "cuda:0" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"device {name!r} is unknown; write auto, cpu or cuda:0") from None
    if device.type != "cuda":
        return device
    device = torch.device("cuda", device.index or 0)
    if device.index >= cuda_devices():
        raise ConfigError(f"device {name} is not there: {cuda_devices()} CUDA devices are visible")
    prepare_cuda(device)
    return device


def prepare_cuda(device: torch.device) -> None:
    """Initialise CUDA on `device`, and make it the current one.

    The current device is where streams, events and pinned memory go that name none; it belongs to the calling thread
    (see `use_in_this_thread`).
    """
    torch.cuda.init()
    torch.cuda.set_device(device)


def allow_tf32(allowed: bool) -> bool:
    """Let convolutions in float32 use TF32, which has the precision of float16, or keep them exact; returns which.

    PyTorch allows it by itself, and so the trainers' samples are made, whose VAE is a third as fast without. Products
    are exact either way, as there. Where cuDNN's convolutions in TF32 are wrong they are never used.
    """
    allowed = allowed and (torch.backends.cudnn.version() or 0) not in WRONG_TF32
    torch.backends.cudnn.allow_tf32 = allowed
    return allowed


def use_in_this_thread(device: torch.device) -> None:
    """Make `device` the current CUDA device of a thread that has just begun; nothing for the CPU."""
    if device.type == "cuda":
        torch.cuda.set_device(device)


def resolve_dtype(asked: str | None, device: torch.device) -> torch.dtype:
    """The precision of the transformer: as asked for, else the default of the device.

    float32 on the CPU, bfloat16 on a GPU that computes in it, and float16 on older ones (before Ampere), which would
    emulate it.
    """
    if asked is not None:
        return DTYPES[asked]
    if device.type == "cpu":
        return torch.float32
    if torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.bfloat16
    logger.warning("%s does not compute in bfloat16; models that name no precision are used in float16", device)
    return torch.float16


def name_of(dtype: torch.dtype) -> str:
    """A precision in a word, as `Dtype` writes it."""
    return str(dtype).removeprefix("torch.")
