"""LoRAs of text encoders: what their modules are called in files, and how they get into an encoder.

Encoders are loaded for new texts alone and thrown away afterwards, so a LoRA is merged into one when it is loaded and
needs no way back. What the encoder makes is kept under the LoRA's own hash: see `TextLoras.key`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from rushes_service.lora.changes import Patch
from rushes_service.lora.merge import Applied, LoraMerger
from rushes_service.lora.reading import Lora
from rushes_service.lora.targets import LoraTarget, NameTable, TextTable, name_table
from rushes_service.runtime.devices import CPU

BETWEEN = ":"
"""Between the name of an encoder and that of its module; no module's name holds it."""


def in_encoder(encoder: str, name: str) -> str:
    """The name of a text encoder's module or parameter beside those of the transformer."""
    return f"{encoder}{BETWEEN}{name}"


def text_table(encoder: str, model: nn.Module, original_name: Callable[[str], str]) -> TextTable:
    """What modules of a text encoder are called in files. `model` may be without weights (on `meta`)."""
    table = name_table(model, original_name)

    def placed(names: Mapping[str, tuple[LoraTarget, ...]]) -> dict[str, tuple[LoraTarget, ...]]:
        return {
            name: tuple(replace(target, module=in_encoder(encoder, target.module)) for target in targets)
            for name, targets in names.items()
        }

    bare = {name: tuple(in_encoder(encoder, own) for own in owns) for name, owns in table.parameters.items()}
    names = NameTable(placed(table.dotted), placed(table.flat), bare, aliases=placed(table.aliases))
    return TextTable(names, {in_encoder(encoder, name): part.shape for name, part in model.named_parameters()})


@dataclass(frozen=True)
class TextLoras:
    """The LoRAs of a sample's text encoders, with their strengths; those of strength 0 are none."""

    applied: Applied = ()

    @property
    def empty(self) -> bool:
        """True if no text encoder is changed."""
        return not any(strength and encoders_in(lora) for lora, strength in self.applied)

    def of(self, encoder: str) -> list[tuple[Lora, float]]:
        """The LoRAs that change `encoder`, by the names of its own parameters."""
        return [
            (replace(lora, patches=patches), strength)
            for lora, strength in self.applied
            if strength != 0 and (patches := tuple(patches_in(lora, encoder)))
        ]

    def key(self, encoders: Sequence[str]) -> dict[str, list[tuple[str, float]]]:
        """What embeddings depend on: hash and strength of each file, in order, by the encoder that it changes."""
        found = {encoder: [(lora.fingerprint, strength) for lora, strength in self.of(encoder)] for encoder in encoders}
        return {encoder: files for encoder, files in found.items() if files}

    def merge_into(self, encoder: str, model: nn.Module, device: torch.device = CPU) -> None:
        """Merge into an encoder that is thrown away with them; raises as `LoraMerger.merge`."""
        if loras := self.of(encoder):
            LoraMerger(model, device, keep=False).merge(loras)


def patches_in(lora: Lora, encoder: str) -> Iterator[Patch]:
    """The changes of one encoder's parameters, by their own names."""
    begin = in_encoder(encoder, "")
    for patch in lora.patches:
        if patch.parameter.startswith(begin):
            yield replace(patch, parameter=patch.parameter.removeprefix(begin))


def without_texts(lora: Lora) -> Lora:
    """`lora` with the changes of the transformer alone."""
    patches = tuple(patch for patch in lora.patches if BETWEEN not in patch.parameter)
    return lora if len(patches) == len(lora.patches) else replace(lora, patches=patches)


def encoders_in(lora: Lora) -> list[str]:
    """Names of the text encoders that a file changes."""
    places = (patch.parameter.partition(BETWEEN) for patch in lora.patches)
    return sorted({encoder for encoder, between, _ in places if between})
