"""The numbers of a weight file, one tensor at a time, fp8 turned back into what it stands for."""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open

from rushes.errors import ModelError
from rushes_service.models.loading.files.headers import Header
from rushes_service.models.loading.files.quant_markers import SCALES

FP8 = (torch.float8_e4m3fn, torch.float8_e5m2)


class Tensors(Protocol):
    """Gives tensors by name."""

    def get_tensor(self, name: str) -> torch.Tensor: ...


class WeightReader:
    """Reads the tensors of one header while it is open."""

    def __init__(self, header: Header, files: dict[Path, Tensors]) -> None:
        self._header = header
        self._files = files

    def stored(self, name: str) -> torch.Tensor:
        """A tensor as it is stored."""
        entry = self._header.entries[name]
        return self._files[entry.file].get_tensor(entry.key or name)

    def read(self, name: str) -> torch.Tensor:
        """A tensor as it is meant: scaled fp8 in float32, anything else as stored."""
        tensor = self.stored(name)
        scale = next((self.stored(key) for key in scale_names(name) if key in self._header.entries), None)
        return tensor if scale is None or tensor.dtype not in FP8 else dequantized(tensor, scale)


def scale_names(name: str) -> Iterator[str]:
    """What the scale of a weight may be called."""
    module, _, kind = name.rpartition(".")
    if kind == "weight":
        yield from (f"{module}.{scale}" for scale in SCALES)


def dequantized(tensor: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """fp8 times its scale, in float32.

    Args:
        tensor: [rows, columns].
        scale: a number for all, one for each row [rows, 1], or one for each block of a row [rows, blocks, 1].
    """
    numbers, scale = tensor.float(), scale.float()
    if scale.ndim < 3:
        return numbers * (scale.reshape(-1, 1) if scale.ndim == 1 and scale.numel() > 1 else scale)
    rows, blocks, _ = scale.shape
    return (numbers.reshape(rows, blocks, -1) * scale).reshape(tensor.shape)


class Pickled:
    """A `.pt` file's tensors."""

    def __init__(self, tensors: dict[str, torch.Tensor]) -> None:
        self._tensors = tensors

    def get_tensor(self, name: str) -> torch.Tensor:
        """A tensor by its name."""
        return self._tensors[name]


@contextlib.contextmanager
def opened(header: Header) -> Iterator[WeightReader]:
    """A reader of the file's tensors.

    Raises:
        ModelError: it has changed since its header was read, or holds code and not only weights.
    """
    with contextlib.ExitStack() as stack:
        try:
            files: dict[Path, Tensors] = (
                {header.path: Pickled(unpickled(header))}
                if header.pickled
                else {file: stack.enter_context(safe_open(file, framework="pt")) for file in header.files}
            )
        except (OSError, SafetensorError) as error:
            raise ModelError(f"{header.path} cannot be read: {error}") from error
        yield WeightReader(header, files)


def unpickled(header: Header) -> dict[str, torch.Tensor]:
    """The state dict of a `.pt` file, whose numbers stay on disk until they are used.

    Raises:
        ModelError: it holds more than weights.
    """
    try:
        content: Any = torch.load(header.path, map_location="cpu", weights_only=True, mmap=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ModelError(
            f"{header.path} holds more than weights and is not loaded, because that could run a stranger's code; "
            "convert it to safetensors where you trust it"
        ) from error
    for name in header.nested:
        content = content[name]
    return dict(content)
