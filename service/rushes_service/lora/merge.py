"""Merge LoRAs into live weights, and take them out again to the last bit.

Merged weights cost nothing in the forward pass: each weight is written in place. Subtracting a delta does not give the
base back (rounding), so the merger keeps a pristine copy of every weight that it ever changed, and each merge is one
`addmm` from that copy into the live weight.

Weights that cannot be written (quantised ones would round the delta away, accelerate keeps offloaded ones elsewhere)
keep their factors beside them, applied at every step; see `unmerged`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from rushes.errors import LoraValue
from rushes_service.lora.changes import LowRank, Weighted, as_matrix, changed_weight, uploaded
from rushes_service.lora.pristine import NoCopies, PristineCopies
from rushes_service.lora.reading import Lora
from rushes_service.lora.targets import plain_name
from rushes_service.lora.unmerged import LoraHooks, why_unmerged
from rushes_service.runtime.compat_torch import copy_all
from rushes_service.runtime.devices import CPU

CPU_BLOCK_BYTES = 3 << 20
"""How much of a weight is merged at a time on a CPU: what its caches hold between two passes over it."""

MERGEABLE = (torch.float64, torch.float32, torch.bfloat16, torch.float16)

STRONGEST = torch.finfo(torch.float32).max
"""Largest strength: products are scaled in float32."""

Applied = Sequence[tuple[Lora, float]]
"""LoRAs with their strengths, in the order in which they are added."""

State = tuple[tuple[str, float], ...]
"""Hashes and strengths of what is in a weight."""


class LoraMerger:
    """Owner of one model's LoRA state. Not thread-safe: one sample at a time.

    Args:
        device: where weights are merged that lie on the CPU. The blocks of an offloaded model do: merged on its GPU,
            they get the bits that they would have without offloading.
        keep: copy weights before they are first changed. Without, they cannot be brought back, and are merged once.
    """

    def __init__(self, model: nn.Module, device: torch.device = CPU, *, keep: bool = True) -> None:
        self._device = device
        self._parameters: Mapping[str, torch.Tensor] = {
            plain_name(name): parameter for name, parameter in model.named_parameters()
        }
        self._modules = {plain_name(name): module for name, module in model.named_modules()}
        self._pristine = PristineCopies() if keep else NoCopies()
        self._states: dict[str, State] = {}
        self._hooks = LoraHooks()

    @property
    def shapes(self) -> dict[str, torch.Size]:
        """Shape of every parameter, by name."""
        return {name: parameter.shape for name, parameter in self._parameters.items()}

    @property
    def hooked(self) -> bool:
        """True if some layers have a LoRA beside their weights, which could not be changed."""
        return self._hooks.active

    @property
    def mode(self) -> str:
        """How weights are changed, where the copies are and why, for the receipt."""
        ways = []
        if places := self._pristine.places(name for name, state in self._states.items() if state):
            ways.append(f"merged from a pristine copy ({places})")
        if self._hooks.active:
            ways.append(f"unmerged ({self._hooks.reason})")
        return " and ".join(ways) or "none"

    @property
    def precision(self) -> str:
        """Precision of the weights that are changed."""
        dtypes = {parameter.dtype for name, parameter in self._parameters.items() if self._states.get(name)}
        return ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes))

    @torch.no_grad()
    def merge(self, loras: Applied) -> bool:
        """Make the weights the base with `loras` in it; True if anything had to be done.

        A LoRA of strength 0 is none: without any other the weights are the base, bit for bit. After any failure
        they are the base, too.

        Raises:
            LoraValue: a strength is no number that weights can be multiplied by.
        """
        check_strengths(loras)
        wanted = by_parameter([(lora, strength) for lora, strength in loras if strength != 0])
        changed = [
            name for name in {*self._states, *wanted} if self._states.get(name, ()) != wanted.get(name, ((), ()))[0]
        ]
        if not changed:
            return False
        try:
            apart = {name: why for name in wanted if (why := self._why_unmerged(name))}
            self._pristine.add({name: self._parameters[name] for name in wanted if name not in apart})
            self._restore([name for name in changed if name not in wanted])
            for name in changed:
                if name in wanted and name not in apart:
                    self._write(name, wanted[name][1])
                    self._states[name] = wanted[name][0]
            self._hooks.install({name: (self._owner(name), wanted[name][1], why) for name, why in apart.items()})
            self._states.update({name: wanted[name][0] for name in apart})
            self._finish()
        except BaseException:
            self.restore()
            raise
        return True

    @torch.no_grad()
    def restore(self) -> None:
        """Put the base back, bit for bit."""
        self._hooks.remove()
        self._restore(list(self._states))

    def forget(self) -> None:
        """Give back the copies and all that is beside the weights, which are the base again or are replaced by it."""
        self._hooks.remove()
        self._states.clear()
        self._pristine = type(self._pristine)()

    def leave_device(self) -> None:
        """Move the pristine copies off the device."""
        self._pristine.leave_device()

    def _finish(self) -> None:
        """Wait until the device has written the weights: those in host memory may be read afterwards."""
        if self._device.type == "cuda":
            torch.cuda.current_stream(self._device).synchronize()

    def _restore(self, names: Sequence[str]) -> None:
        merged = [name for name in names if name in self._pristine]
        if merged:
            self._finish()  # the device may still be writing weights in host memory
            live = [self._parameters[name].detach() for name in merged]
            copy_all(live, [self._pristine[name] for name in merged])
        for name in names:
            self._states.pop(name, None)

    def _owner(self, name: str) -> nn.Module:
        """The module that a parameter belongs to."""
        return self._modules[name.rpartition(".")[0]]

    def _why_unmerged(self, name: str) -> str | None:
        """Why a parameter cannot be written; None if it can."""
        return why_unmerged(self._owner(name), self._parameters[name], MERGEABLE)

    def _write(self, name: str, weighted: Sequence[Weighted]) -> None:
        """Bring one weight from its pristine copy to what is wanted."""
        live, base = as_matrix(self._parameters[name].detach()), as_matrix(self._pristine[name])
        # Noted before anything is written: a failure half way must know what to put back.
        self._states[name] = (("unfinished", 0.0),)
        check_shapes(name, live, weighted)
        target, there = live, self._device if live.device == CPU else live.device
        if live.device != there:
            target = base = base.to(there, non_blocking=True)
        elif base.device != there:
            base = live.copy_(base, non_blocking=True)
        if factors := low_rank_factors(weighted, target):
            add_product(target, base, *factors)
        else:
            target.copy_(changed_weight(base, weighted))
        if target is not live:
            live.copy_(target, non_blocking=True)


def check_shapes(name: str, live: torch.Tensor, weighted: Sequence[Weighted]) -> None:
    """Raise `LoraValue` if a change is of another shape than its weight: `out=` would resize the live weight."""
    for patch, _ in weighted:
        if patch.into is None and patch.change.shape != tuple(live.shape):
            raise LoraValue(f"{name} is {list(live.shape)}, its change {list(patch.change.shape)}")


def low_rank_factors(
    weighted: Sequence[Weighted], live: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, float] | None:
    """Up [out, ranks], down [ranks, in] and scale of plain LoRAs, all in one product; None if one is something else."""
    changes = [(patch.change, strength) for patch, strength in weighted]
    if any(patch.into or not isinstance(patch.change, LowRank) for patch, _ in weighted):
        return None
    if len(changes) == 1:
        (change, strength) = changes[0]
        return uploaded(change.up, live), uploaded(change.down, live), change.scale * strength  # type: ignore[attr-defined]
    exact = live.new_empty(0, dtype=torch.float32)
    ups = [uploaded(change.up, exact) * (change.scale * strength) for change, strength in changes]  # type: ignore[attr-defined]
    downs = [uploaded(change.down, live) for change, _ in changes]  # type: ignore[attr-defined]
    return torch.cat(ups, dim=1).to(live.dtype), torch.cat(downs), 1.0


def add_product(live: torch.Tensor, base: torch.Tensor, up: torch.Tensor, down: torch.Tensor, scale: float) -> None:
    """Write `base + scale * up @ down` to `live`; `base` may be `live` itself.

    On a CPU in blocks of rows that stay in its cache: `addmm` copies the base before it multiplies.
    """
    rows = len(live)
    if live.device.type == "cpu":
        rows = max(1, CPU_BLOCK_BYTES // max(1, live[:1].nbytes))
    for start in range(0, len(live), rows):
        part = slice(start, start + rows)
        torch.addmm(base[part], up[part], down, beta=1, alpha=scale, out=live[part])


def check_strengths(loras: Applied) -> None:
    """Raise `LoraValue` for a strength that is NaN, or beyond float32."""
    for lora, strength in loras:
        if not abs(strength) <= STRONGEST:
            raise LoraValue(f"{lora.report.path}: a strength of {strength} cannot be merged; 1 is as it was trained")


def by_parameter(loras: Applied) -> dict[str, tuple[State, list[Weighted]]]:
    """What becomes of each parameter: hashes with strengths, and the changes themselves."""
    found: dict[str, tuple[list[tuple[str, float]], list[Weighted]]] = {}
    for lora, strength in loras:
        for patch in lora.patches:
            # Once for each patch: a file that is there twice acts twice.
            state, weighted = found.setdefault(patch.parameter, ([], []))
            state.append((lora.fingerprint, strength))
            weighted.append((patch, strength))
    return {name: (tuple(state), weighted) for name, (state, weighted) in found.items()}
