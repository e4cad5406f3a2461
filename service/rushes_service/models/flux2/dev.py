"""flux2-dev: Mistral reads the words, and `--g` is an input of the transformer."""

from __future__ import annotations

from typing import Any, ClassVar

from diffusers import FlowMatchEulerDiscreteScheduler, Flux2Pipeline

from rushes.families.parameters import SampleParameters
from rushes.families.rows.flux import FLUX2_DEV
from rushes.families.spec import ArchitectureSpec
from rushes.wire.jobs import VaeOptions
from rushes_service.models.flux2.base import Flux2
from rushes_service.models.llm.mistral import Flux2DevText


class Flux2Dev(Flux2):
    """flux2-dev."""

    spec: ClassVar[ArchitectureSpec] = FLUX2_DEV
    pipelines = ("Flux2Pipeline",)
    guidance_embeds = True
    text_class, text_kind = Flux2DevText, "flux2-dev"
    hub_ids: ClassVar[dict[str, str]] = {"dev": "black-forest-labs/FLUX.2-dev"}

    def warnings(self, parameters: SampleParameters, vae: VaeOptions) -> tuple[str, ...]:
        warnings = super().warnings(parameters, vae)
        if self.model.fp8_text_encoder:
            warnings = (*warnings, "--fp8_text_encoder changes nothing for flux2-dev: it is for klein's Qwen3 alone")
        return warnings

    def pipeline(self, **parts: Any) -> Any:
        return Flux2Pipeline(tokenizer=None, text_encoder=None, scheduler=FlowMatchEulerDiscreteScheduler(), **parts)
