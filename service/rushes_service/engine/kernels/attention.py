"""Which kernels compute attention: the best exact ones that are installed and fit the card, or those asked for.

Names are those of the trainers; what they stand for are diffusers' attention backends.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from diffusers.models.attention_dispatch import attention_backend
from torch.nn.attention import SDPBackend, sdpa_kernel

from rushes.errors import ConfigError, first_line

AUTO = "auto"
NATIVE = "native"
CUDNN = "cudnn"

HOPPER = 9
"""Major compute capability of the cards that FlashAttention 3 is written for."""

CUDNN_FIRST = [
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]
"""PyTorch takes the first of these that has a kernel for a call."""

HALF = (torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Backend:
    """One way to compute attention.

    `diffusers` is its name there. `wide`: computes in float32, too. `masks`: takes a mask. `exact` but for rounding.
    """

    name: str
    diffusers: str
    wide: bool = False
    masks: bool = False
    exact: bool = True

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Inside, diffusers' transformers use it."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(attention_backend(self.diffusers))
            if self.name == CUDNN:
                stack.enter_context(sdpa_kernel(CUDNN_FIRST, set_priority=True))
            yield


BACKENDS = {
    backend.name: backend
    for backend in (
        Backend(NATIVE, "native", wide=True, masks=True),
        Backend(CUDNN, "native", wide=True, masks=True),
        Backend("flash", "flash"),
        Backend("flash3", "_flash_3"),
        Backend("xformers", "xformers", wide=True),
        Backend("sage", "sage", exact=False),
    )
}
"""By the name that a person gives. cuDNN's is PyTorch's own with another order of kernels, so it always fits."""


@dataclass(frozen=True)
class Chosen:
    """What computes the attention of a sample, and what a person should know about that."""

    backend: Backend
    warning: str | None = None


class Attention:
    """The choice for one device.

    Args:
        asked: "auto", or a name of `BACKENDS`.

    Raises:
        ConfigError: there is no such backend, it is not installed, or it is for another device.
    """

    def __init__(self, device: torch.device, asked: str = AUTO) -> None:
        self._device = device
        self._asked = None if asked == AUTO else named(asked)
        if self._asked is not None and (reason := missing(self._asked, device)):
            raise ConfigError(f"--attention {asked}: {reason}")

    def choose(self, dtype: torch.dtype, *, masks: bool) -> Chosen:
        """What computes attention in `dtype`; `masks` if some of it is masked."""
        if self._asked is None:
            return Chosen(self._best(dtype, masks=masks))
        if (reason := unfit(self._asked, dtype, masks=masks)) is not None:
            return Chosen(
                BACKENDS[NATIVE],
                f"--attention {self._asked.name} was not used, but {NATIVE}: {reason}",
            )
        warning = None if self._asked.exact else f"attention by {self._asked.name}: approximate"
        return Chosen(self._asked, warning)

    def _best(self, dtype: torch.dtype, *, masks: bool) -> Backend:
        """The best exact backend for a call of this kind."""
        if self._device.type != "cuda" or torch.cuda.get_device_capability(self._device)[0] < HOPPER:
            return BACKENDS[NATIVE]
        flash = BACKENDS["flash3"]
        hopper = torch.cuda.get_device_capability(self._device)[0] == HOPPER
        if hopper and not missing(flash, self._device) and unfit(flash, dtype, masks=masks) is None:
            return flash
        return BACKENDS[CUDNN] if dtype in HALF else BACKENDS[NATIVE]


def named(name: str) -> Backend:
    """The backend called `name`; raises `ConfigError`."""
    if name not in BACKENDS:
        raise ConfigError(f"--attention {name}: there is no such backend; write {AUTO}, {', '.join(BACKENDS)}")
    return BACKENDS[name]


def missing(backend: Backend, device: torch.device) -> str | None:
    """Why a backend cannot be used on a device at all; None if it can."""
    if backend.name != NATIVE and device.type != "cuda":
        return f"it is for GPUs, and this worker is on {device}"
    try:
        with attention_backend(backend.diffusers):
            return None
    except (RuntimeError, ValueError) as error:
        return f"it is not installed ({first_line(error)})"


def unfit(backend: Backend, dtype: torch.dtype, *, masks: bool) -> str | None:
    """Why a backend cannot compute attention of one kind; None if it can."""
    if masks and not backend.masks:
        return "this model masks a part of its tokens"
    if dtype not in HALF and not backend.wide:
        return f"it computes in 16 bits, and the transformer in {str(dtype).removeprefix('torch.')}"
    return None
