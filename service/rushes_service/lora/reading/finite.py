"""Are all numbers of a file finite? Looked at once, before any weight is touched, at the speed of memory."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import torch

from rushes.errors import LoraValue
from rushes_service.lora.reading.files import WeightsFile
from rushes_service.lora.reading.keys import split


def check_finite(file: WeightsFile) -> None:
    """Raise `LoraValue` for the first tensor that holds NaN or infinity."""
    if all(finite(run) for run in runs(file.tensors.values())):
        return
    bad = non_finite_keys(file)
    if not bad:
        return
    name, part, *_ = split(bad[0])
    raise LoraValue(
        f"{file.path}: {name}{f' ({part})' if part else ''} holds NaN or infinity; training has most likely diverged"
    )


def non_finite_keys(file: WeightsFile) -> list[str]:
    """Keys of tensors that hold NaN or infinity."""
    return [key for key, tensor in file.tensors.items() if not finite(tensor) and not is_endless(key, tensor, file)]


def is_endless(key: str, tensor: torch.Tensor, file: WeightsFile) -> bool:
    """True for the alpha of a whole LoKr, which means nothing and which ai-toolkit makes larger than float16 holds."""
    name = key.removesuffix(".alpha")
    whole = all(f"{name}.lokr_w{half}" in file.tensors for half in (1, 2))
    return name != key and whole and not bool(tensor.isnan().any())


def runs(tensors: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
    """The same numbers in as few tensors as can be: those of one precision lie one behind another in a file."""
    begun: torch.Tensor | None = None
    count = 0
    for tensor in sorted(tensors, key=torch.Tensor.data_ptr):
        behind = begun is not None and tensor.data_ptr() == begun.data_ptr() + count * begun.element_size()
        if begun is not None and behind and tensor.dtype == begun.dtype and shares_storage(tensor, begun):
            count += tensor.numel()
            continue
        if begun is not None:
            yield begun.as_strided((count,), (1,))
        begun, count = tensor, tensor.numel()
    if begun is not None:
        yield begun.as_strided((count,), (1,))


def shares_storage(one: torch.Tensor, other: torch.Tensor) -> bool:
    """True for views of the same memory."""
    return one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()


def finite(tensor: torch.Tensor) -> bool:
    """True without NaN and infinity. Extremes tell (NaN is both), in one pass without a mask of the tensor's size."""
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    # 8-bit floats are not compared.
    lowest, highest = torch.aminmax(tensor.float() if tensor.dtype.itemsize == 1 else tensor)
    return math.isfinite(lowest) and math.isfinite(highest)
