"""Copies of the base weights that LoRAs changed, from which each merge starts and the base comes back bit for bit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress

import torch

from rushes_service.runtime.available_memory import unused_bytes
from rushes_service.runtime.devices import CPU
from rushes_service.runtime.pinned import pinned_copies

HEADROOM = 1.0
"""Unused device memory that must remain, in multiples of the copies, for the copies to lie on the device."""


class PristineCopies:
    """Copies by the names of their parameters: beside the weights if they fit there, else in pinned host memory."""

    def __init__(self) -> None:
        self._copies: dict[str, torch.Tensor] = {}
        self._reason = ""

    def __contains__(self, name: str) -> bool:
        return name in self._copies

    def __getitem__(self, name: str) -> torch.Tensor:
        return self._copies[name]

    def add(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Copy weights that have no copy yet. Where to is decided once, for all of them together."""
        new = {name: weight.detach() for name, weight in weights.items() if name not in self._copies}
        on_device = {name: weight for name, weight in new.items() if weight.is_cuda}
        if on_device and self._fit(on_device.values()):
            with suppress(torch.OutOfMemoryError):
                self._copies.update({name: weight.clone() for name, weight in on_device.items()})
        rest = {name: weight for name, weight in new.items() if name not in self._copies}
        if rest:
            self._copies.update(zip(rest, pinned_copies(list(rest.values())), strict=True))

    def _fit(self, weights: Iterable[torch.Tensor]) -> bool:
        """True if copies fit the device with room to spare; else the reason is noted."""
        weights = list(weights)
        device, size = weights[0].device, sum(weight.nbytes for weight in weights)
        unused = unused_bytes(device)
        if unused >= size * (1 + HEADROOM):
            return True
        self._reason = f": {unused >> 20} MiB unused on {device}, {size >> 20} MiB needed"
        return False

    def leave_device(self) -> None:
        """Move the copies that lie on a device to pinned host memory."""
        there = {name: copy for name, copy in self._copies.items() if copy.device != CPU}
        if there:
            self._copies.update(zip(there, pinned_copies(list(there.values())), strict=True))
            self._reason = ": moved there when memory ran out"

    def places(self, names: Iterable[str]) -> str:
        """Where the copies of some parameters lie and why, for the receipt; empty if they have none."""
        copies = [self._copies[name] for name in names if name in self._copies]
        places = {"pinned memory" if copy.is_pinned() else str(copy.device) for copy in copies}
        return f"{', '.join(sorted(places))}{self._reason}" if places else ""


class NoCopies(PristineCopies):
    """The weights themselves, for a model that is thrown away with its LoRAs."""

    def add(self, weights: Mapping[str, torch.Tensor]) -> None:
        self._copies.update({name: weight.detach() for name, weight in weights.items() if name not in self._copies})

    def leave_device(self) -> None:
        """Nothing: there is no second copy anywhere."""
