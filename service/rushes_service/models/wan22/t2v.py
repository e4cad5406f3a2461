"""wan2.2-t2v-a14b: two transformers, one for much noise and one for little.

The trainers sample with the one for little noise alone, at its guidance of 3.0 (musubi-tuner 0.3.4,
wan_train_network.py), and so does the default here. `experts="both"` is how the model is meant to be used:
diffusers' `WanPipeline` changes from one to the other at the boundary that the model states.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from typing import Any, ClassVar

from torch import nn

from rushes.families.parameters import SampleParameters
from rushes.families.rows.wan import WAN22_T2V_A14B
from rushes.families.spec import ArchitectureSpec
from rushes.wire.jobs import VaeOptions
from rushes_service.lora.targets import LoraTarget, NameTable
from rushes_service.models.conditioning import Conditioning
from rushes_service.models.loading.from_repo import quiet_loading_bars
from rushes_service.models.wan.inputs import conditioned
from rushes_service.models.wan.names import wan_names
from rushes_service.models.wan.t2v import LATENT_CHANNELS, Wan

HIGH, LOW, BOTH = "high", "low", "both"
COMPONENTS = {HIGH: "transformer", LOW: "transformer_2"}
"""Directories of the experts in diffusers' layout."""


class WanTwoExperts(Wan):
    """wan2.2-t2v-a14b."""

    spec: ClassVar[ArchitectureSpec] = WAN22_T2V_A14B
    pipelines = ("WanPipeline",)
    in_channels = LATENT_CHANNELS

    published_boundary: ClassVar[float] = 0.875
    """Part of the noise schedule, from its end with little noise, above which the expert for much noise samples. For
    models that do not state it."""

    def load(self) -> None:
        quiet_loading_bars()
        wanted = (HIGH, LOW) if self.model.experts == BOTH else (self.model.experts,)
        self._experts = nn.ModuleDict({expert: self.load_transformer(COMPONENTS[expert]) for expert in wanted})
        first, *second = self._experts.values()
        more = {"transformer_2": second[0], "boundary_ratio": self.boundary()} if second else {}
        self._pipe = self.pipeline(transformer=first, **more)

    def boundary(self) -> float:
        """Part of the noise schedule, from its end with little noise, at which the experts change."""
        return float(self.source.index().get("boundary_ratio") or self.published_boundary)

    @property
    def transformer(self) -> nn.Module:
        return self._experts

    def lora_names(self) -> NameTable:
        tables = {str(expert): wan_names(self._experts[expert]) for expert in self._experts}
        trained = [self.model.lora_expert] if self.model.lora_expert else list(tables)
        experts = {expert: together({expert: table}) for expert, table in tables.items()}
        return replace(together({expert: tables[expert] for expert in trained}), experts=experts)

    def warnings(self, parameters: SampleParameters, vae: VaeOptions) -> tuple[str, ...]:
        warnings = super().warnings(parameters, vae)
        if self.model.experts == BOTH:
            return warnings
        noise = "much" if self.model.experts == HIGH else "little"
        alone = f"made by the expert for {noise} noise alone, as trainers sample"
        return (*warnings, f"{alone}; --rushes_experts both samples as the model is meant to be used")

    def inputs(self, conditioning: Conditioning) -> AbstractContextManager[None]:
        with ExitStack() as stack:
            for expert in self._experts.values():
                stack.enter_context(conditioned(expert, conditioning))
            return stack.pop_all()

    def guidance(self, parameters: SampleParameters) -> dict[str, float | None]:
        if self.model.experts != BOTH:
            return super().guidance(parameters)
        return {"guidance_scale": parameters.high_noise_cfg_scale, "guidance_scale_2": parameters.cfg_scale}

    def facts(self) -> dict[str, Any]:
        return {
            **super().facts(),
            "experts": self.model.experts,
            "lora_expert": self.model.lora_expert or self.model.experts,
            "boundary": self._pipe.config.boundary_ratio,
        }


def together(tables: Mapping[str, NameTable]) -> NameTable:
    """A table in which each name means the modules of all `tables`, which lie under their keys in the live model."""

    def joined(parts: Mapping[str, Mapping[str, tuple[LoraTarget, ...]]]) -> dict[str, tuple[LoraTarget, ...]]:
        found: dict[str, tuple[LoraTarget, ...]] = {}
        for key, names in parts.items():
            for name, targets in names.items():
                there = tuple(LoraTarget(f"{key}.{target.module}", target.rows) for target in targets)
                found[name] = (*found.get(name, ()), *there)
        return found

    bare: dict[str, tuple[str, ...]] = {}
    for key, table in tables.items():
        for name, parameters in table.parameters.items():
            bare[name] = (*bare.get(name, ()), *(f"{key}.{parameter}" for parameter in parameters))
    return NameTable(
        joined({key: table.dotted for key, table in tables.items()}),
        joined({key: table.flat for key, table in tables.items()}),
        bare,
        aliases=joined({key: table.aliases for key, table in tables.items()}),
    )
