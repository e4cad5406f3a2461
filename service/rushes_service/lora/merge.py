"""Merge a LoRA into live weights, and take it out again to the last bit.

Merged weights cost nothing in the forward pass and keep compiled graphs valid. Subtracting a delta does not give the
base back (rounding), so a pristine copy is kept of every weight that was ever touched, and each merge is one
`addmm` from that copy into the live weight.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import nn

from rushes.errors import LoraValue
from rushes_service.lora.reading import Delta, Lora

HEADROOM = 2.0
"""Free device memory that must remain, in multiples of the copy, for the copy to live on the device."""


class LoraMerger:
    """Owner of one model's LoRA state. Not thread-safe: one sample at a time."""

    def __init__(self, model: nn.Module) -> None:
        self._weights: Mapping[str, torch.Tensor] = {
            name: weight.data
            for name, module in model.named_modules()
            if isinstance(weight := getattr(module, "weight", None), torch.Tensor)
        }
        self._pristine: dict[str, torch.Tensor] = {}
        self._touched: set[str] = set()
        self._state: tuple[str, float] | None = None

    @property
    def shapes(self) -> dict[str, torch.Size]:
        """Weight shape of every module, by name."""
        return {name: weight.shape for name, weight in self._weights.items()}

    @property
    def mode(self) -> str:
        """How and where weights are kept, for the receipt."""
        places = {"pinned memory" if copy.is_pinned() else str(copy.device) for copy in self._pristine.values()}
        return f"merged from a pristine copy ({', '.join(sorted(places))})" if places else "none"

    def merge(self, lora: Lora | None, strength: float) -> bool:
        """Make the weights `base + strength * lora`; True if anything had to be done.

        None or strength 0 is the base, bit for bit. After any failure the weights are the base.
        """
        wanted = (lora.fingerprint, strength) if lora is not None and strength != 0 else None
        if wanted == self._state:
            return False
        try:
            deltas = by_module(lora.deltas) if lora is not None and wanted is not None else {}
            self._restore(self._touched - deltas.keys())
            self._copy_pristine(deltas.keys())
            for module, parts in deltas.items():
                self._add(module, parts, strength)
        except BaseException:
            self.restore()
            raise
        self._state = wanted
        return True

    def restore(self) -> None:
        """Put the base back, bit for bit."""
        self._state = None
        self._restore(set(self._touched))

    def _restore(self, modules: set[str]) -> None:
        for module in modules:
            self._weights[module].copy_(self._pristine[module], non_blocking=True)
            self._touched.discard(module)

    def _copy_pristine(self, modules: Iterable[str]) -> None:
        new = [module for module in modules if module not in self._pristine]
        size = sum(self._weights[module].nbytes for module in new)
        for module in new:
            self._pristine[module] = copied(self._weights[module], size)

    @torch.no_grad()
    def _add(self, module: str, deltas: list[Delta], strength: float) -> None:
        weight, base = self._weights[module], self._pristine[module]
        if base.device != weight.device:
            base = weight.copy_(base, non_blocking=True)
        self._touched.add(module)
        out, base = weight.flatten(1), base.flatten(1)
        for delta in deltas:
            if (len(delta.up), delta.down.shape[1]) != out.shape:
                # `out=` would resize the live weight.
                raise LoraValue(f"{module} is {list(out.shape)}, its delta {[len(delta.up), delta.down.shape[1]]}")
            up = delta.up.to(weight.device, weight.dtype)
            down = delta.down.to(weight.device, weight.dtype)
            torch.addmm(base, up, down, beta=1, alpha=delta.scale * strength, out=out)
            base = out


def by_module(deltas: tuple[Delta, ...]) -> dict[str, list[Delta]]:
    """Deltas of each module, in the file's order."""
    grouped: dict[str, list[Delta]] = {}
    for delta in deltas:
        grouped.setdefault(delta.module, []).append(delta)
    return grouped


def copied(weight: torch.Tensor, total_bytes: int) -> torch.Tensor:
    """A copy of `weight`: beside it if `total_bytes` fit its device with room to spare, else in pinned host memory."""
    if weight.device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(weight.device)
        if free < total_bytes * (1 + HEADROOM):
            return weight.to("cpu").pin_memory()
    return weight.clone()
