"""The numbers of a weight file, one tensor at a time, straight to where they are wanted.

fp8 is turned back into what it stands for, on the device that the weights are for.
"""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from rushes.errors import ModelError
from rushes_service.models.loading.files.headers import Entry, Header, read_safetensors
from rushes_service.models.loading.files.naming import Slot
from rushes_service.models.loading.files.quant_markers import SCALES
from rushes_service.models.loading.files.transfer import ByteSource, FileBytes, TensorBytes, Transfer
from rushes_service.runtime.devices import STORED_DTYPES

FP8 = (torch.float8_e4m3fn, torch.float8_e5m2)


class WeightReader:
    """Reads the tensors of one header while it is open; by several threads, each with a `Transfer` of its own."""

    def __init__(self, header: Header, files: Mapping[Path, int], pickled: Mapping[str, torch.Tensor]) -> None:
        self.entries = header.entries
        self._header = header
        self._files = files
        self._pickled = pickled

    def read(
        self, slot: Slot, key: str, shape: torch.Size, computed: torch.dtype, kept: torch.dtype, way: Transfer
    ) -> torch.Tensor:
        """A parameter, contiguous on the device of `way`.

        Args:
            slot: which part of the tensor called `key` it is.
            shape: of the parameter; see `shape`.
            computed: precision that the numbers are rounded to first.
            kept: precision of the result.

        Raises:
            ModelError: the file ends before the tensor does, or cannot be read.
        """
        scale = next((scale for scale in scale_names(key) if scale in self.entries), None)
        if scale is not None and self.dtype(key) in FP8:
            whole = dequantized(self._stored(key, way), self._stored(scale, way))
            return slot.cut(whole).reshape(shape).to(computed).to(kept)
        target = torch.empty(shape, dtype=kept, device=way.device)
        flat, done, stored = target.view(-1), 0, self.dtype(key)
        for start, count in runs(self.entries[key], slot):
            way.copy(flat[done : done + count], self._source(key), start * stored.itemsize, stored, computed)
            done += count
        return target

    def shape(self, slot: Slot, key: str) -> torch.Size:
        """The shape of a part of a tensor."""
        return slot.cut(torch.empty(self.entries[key].shape, device="meta")).shape

    def dtype(self, key: str) -> torch.dtype:
        """The precision in which a tensor is stored.

        Raises:
            ModelError: no model has such numbers.
        """
        if key in self._pickled:
            return self._pickled[key].dtype
        stored = self.entries[key].dtype
        if stored not in STORED_DTYPES:
            raise ModelError(f"{self._header.path}: {key} holds {stored}, which are no numbers of a model")
        return STORED_DTYPES[stored]

    def _stored(self, key: str, way: Transfer) -> torch.Tensor:
        """A whole tensor as it is stored."""
        target = torch.empty(self.entries[key].shape, dtype=self.dtype(key), device=way.device)
        way.copy(target.view(-1), self._source(key), 0, target.dtype, target.dtype)
        return target

    def _source(self, key: str) -> ByteSource:
        """Where the bytes of a tensor are."""
        entry = self.entries[key]
        if self._header.pickled:
            return TensorBytes(self._pickled[entry.key or key])
        return FileBytes(self._files[entry.file], entry.start, entry.file)


def runs(entry: Entry, slot: Slot) -> Iterator[tuple[int, int]]:
    """Where the numbers of a slot lie among those of its tensor: begin and count of each run, in order."""
    if slot.swapped:
        rows = entry.shape[0]
        row, half = entry.count // rows, -(-rows // 2)
        yield half * row, (rows - half) * row
        yield 0, half * row
    elif slot.rows is not None:
        row = entry.count // entry.shape[0]
        first, last = slot.rows[0], min(slot.rows[1], entry.shape[0])
        yield first * row, (last - first) * row
    else:
        yield 0, entry.count


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


@contextlib.contextmanager
def opened(header: Header) -> Iterator[WeightReader]:
    """A reader of the file's tensors.

    Raises:
        ModelError: it has changed since its header was read, or holds code and not only weights.
    """
    with contextlib.ExitStack() as stack:
        if header.pickled:
            yield WeightReader(header, {}, unpickled(header))
            return
        try:
            files = {file: stack.enter_context(file.open("rb", buffering=0)).fileno() for file in header.files}
        except OSError as error:
            raise ModelError(f"{header.path} cannot be read: {error}") from error
        for file in files:
            if changed(header, file):
                raise ModelError(f"{file} was replaced since it was first looked at; submit the sample again")
        yield WeightReader(header, files, {})


def changed(header: Header, file: Path) -> bool:
    """True if the tensors of one of a header's files are no longer where it says."""
    then = {entry.key or name: entry for name, entry in header.entries.items() if entry.file == file}
    now, _ = read_safetensors(file)
    return {name: placed(entry) for name, entry in then.items()} != {name: placed(entry) for name, entry in now.items()}


def placed(entry: Entry) -> tuple[object, ...]:
    """What a tensor is in its file, and where."""
    return entry.dtype, entry.shape, entry.start


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
