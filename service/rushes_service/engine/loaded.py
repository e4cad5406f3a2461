"""One loaded base model: where its transformer is, and the LoRAs that are in it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from rushes.wire.models import ModelSpec
from rushes_service.engine import placement
from rushes_service.engine.fallback_memory import StageAttempt
from rushes_service.engine.kept.files import Stamps, stamps_of
from rushes_service.engine.kept.host_copy import HostCopy, bytes_of, can_be_moved
from rushes_service.engine.offload import BlockOffloader
from rushes_service.lora.manager import LoraManager
from rushes_service.lora.text_encoders import TextLoras
from rushes_service.models.base import Architecture
from rushes_service.models.loading.files.hashes import FileHashCache
from rushes_service.models.loading.method_caches import give_own_caches
from rushes_service.models.registry import find
from rushes_service.runtime.device_memory import free_memory
from rushes_service.runtime.devices import CPU, name_of


@dataclass
class LoadedModel:
    """A base model whose VAE is on `device` and whose transformer is there, too, or offloaded, or put aside.

    `offloaded_by` is the attempt in which memory ran out, if the transformer is offloaded for that reason. `host_copy`
    is what brought it back to the device, if it has left that once, see `leave`.
    """

    spec: ModelSpec
    base: Architecture
    device: torch.device
    loras: LoraManager
    offloaders: list[BlockOffloader] = field(default_factory=list)
    offloaded_by: StageAttempt | None = None
    stamps: Stamps = ()
    """Of the files that it was loaded from."""
    host_copy: HostCopy | None = None
    _aside: bool = False

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the `ModelSpec`."""
        return self.spec.fingerprint

    @property
    def offloaded(self) -> bool:
        """True if each block of the transformer is on the device only while it computes."""
        return bool(self.offloaders)

    @property
    def decode_device(self) -> torch.device:
        """Where the VAE decodes."""
        return torch.device(self.base.decoder.device)

    def settle(self) -> None:
        """Bring the transformer to where it can compute, whatever a failed stage left behind.

        Must be called with no error in flight: its traceback would keep the memory of the failed stage. Raises the
        device's errors; the transformer is then still aside.
        """
        for offloader in self.offloaders:
            offloader.reset()
        if not self._aside:
            return
        parts = placement.transformers_of(self.base)
        try:
            for part in parts:
                part.to(self.device)
        except BaseException:
            for part in parts:
                part.to(CPU)
            raise
        self._aside = False

    @contextlib.contextmanager
    def transformer_on_cpu(self) -> Iterator[None]:
        """Keep the transformer, and the pristine copies of its weights, off the device while inside.

        It is brought back at the end unless an error ended it: then the next `settle` does.
        """
        if self.offloaded:
            for offloader in self.offloaders:
                offloader.release()
        else:
            self._aside = True
            for part in placement.transformers_of(self.base):
                part.to(CPU)
        self.loras.leave_device()
        free_memory(self.device)
        yield
        self.settle()

    @property
    def modules(self) -> list[nn.Module]:
        """All that is loaded, with the copy of the VAE on another device."""
        parts = self.base.parts
        return parts if self.base.decoder is self.base.vae else [*parts, self.base.decoder]

    @property
    def bytes(self) -> int:
        """Bytes of all weights."""
        return bytes_of(self.modules)

    @property
    def bytes_to_copy(self) -> int:
        """Bytes of host memory that it takes to `leave`."""
        return 0 if self.host_copy is not None else bytes_of(self.modules, on_device=True)

    @property
    def can_leave(self) -> bool:
        """True if all weights can be moved, and are where they should be."""
        return not self._aside and can_be_moved(self.modules)

    def drop_loras(self) -> None:
        """Forget the LoRAs; the weights are the base afterwards, or will be when the model has left its device."""
        replaced = self.host_copy is not None and self.host_copy.has_all_of(self.base.transformer)
        self.loras.forget(restore=not replaced)
        self.base.text_loras = TextLoras()

    def leave(self) -> None:
        """Keep all weights in host memory, and nothing on the device; the LoRAs must have been dropped.

        Raises the device's errors; the model is then of no use. On the CPU weights stay where they are.
        """
        for offloader in self.offloaders:
            offloader.release()
        if self.host_copy is None:
            self.host_copy = HostCopy(self.modules)
        else:
            self.host_copy.leave()
        for part in placement.transformers_of(self.base):
            give_own_caches(part)  # tables on the device

    def enter(self) -> None:
        """Come back to the device; raises its errors, and is then in host memory as before."""
        if self.host_copy is not None:
            self.host_copy.enter()

    def offload(self, attempt: StageAttempt) -> None:
        """Offload the transformer from now on; the weights become the base, the LoRAs have to be applied again."""
        self.loras.merger.restore()
        self.host_copy = None  # of weights that are not to lie on the device
        self._aside = True  # half of it may be offloaded when memory runs out again
        self.offloaders = [BlockOffloader(part, self.device) for part in placement.transformers_of(self.base)]
        self._aside = False
        self.offloaded_by = attempt
        self.loras = lora_manager(self.base, self.spec, self.device)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What makes pictures of this model approximate."""
        return ("--fp8_fast: products in float8 are approximate",) if self.spec.fp8_fast else ()

    def facts(self) -> dict[str, Any]:
        """What the receipt says about the model and its LoRAs."""
        return {
            "model": {"fingerprint": self.fingerprint, **self.spec.model_dump(mode="json", exclude_defaults=True)},
            **self.loras.facts(),
            "dtype": name_of(self.base.dtype),
            "stored_as": placement.stored_as(self.base),
            "offloaded": self.offloaded,
            **({"variants": dict(variants)} if (variants := self.base.source.variants) else {}),
        }


def lora_manager(base: Architecture, spec: ModelSpec, device: torch.device) -> LoraManager:
    """The LoRAs of a model that has none in it."""
    return LoraManager(base.transformer, base.lora_names, base.lora_family, device)


def load_model(
    spec: ModelSpec,
    device: torch.device,
    dtype: torch.dtype,
    file_hashes: FileHashCache,
    *,
    offload: bool,
    decode_device: torch.device | None = None,
) -> LoadedModel:
    """Load a base model, its weights straight to where and how they are to be kept.

    Raises:
        InputError: see `Architecture.load`, `WeightStorage.prepare`.
    """
    stamps = stamps_of(spec)
    base = find(spec.architecture)(spec, device, dtype, file_hashes)
    base.storage = placement.storage_for(base, device)
    with placement.working_on(base, CPU if offload else device):
        base.load()
    placement.ensure_stored(base)
    for part in placement.transformers_of(base):
        give_own_caches(part)
    offloaders = []
    base.vae.to(device)
    for part in placement.transformers_of(base):
        if offload:
            offloaders.append(BlockOffloader(part, device))
        else:
            part.to(device)
    if decode_device not in (None, device):
        base.decode_on(decode_device)
    return LoadedModel(spec, base, device, lora_manager(base, spec, device), offloaders, stamps=stamps)
