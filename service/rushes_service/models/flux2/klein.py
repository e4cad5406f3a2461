"""flux2-klein: Qwen3 reads the words, and `--g` is the scale of classifier-free guidance, unless distilled."""

from __future__ import annotations

from typing import Any, ClassVar

from diffusers import FlowMatchEulerDiscreteScheduler, Flux2KleinPipeline

from rushes.families.parameters import SampleParameters
from rushes.families.rows.flux import FLUX2_KLEIN
from rushes.families.spec import ArchitectureSpec
from rushes.wire.jobs import VaeOptions
from rushes_service.models.conditioning import Conditioning
from rushes_service.models.flux2.base import Flux2
from rushes_service.models.llm.qwen3 import KleinText

DISTILLED_STEPS = 4


class ReferencePipeline(Flux2KleinPipeline):
    """Guided at any scale, where diffusers needs more than 1."""

    @property
    def do_classifier_free_guidance(self) -> bool:
        """True if each step also runs the negative prompt."""
        return not self.config.is_distilled


class Flux2Klein(Flux2):
    """flux2-klein."""

    spec: ClassVar[ArchitectureSpec] = FLUX2_KLEIN
    pipelines = ("Flux2KleinPipeline",)
    guidance_embeds = False
    text_class, text_kind, text_float8 = KleinText, "flux2-klein", "fp8_text_encoder"
    hub_ids: ClassVar[dict[str, str]] = {
        "klein-base-4b": "black-forest-labs/FLUX.2-klein-base-4B",
        "klein-4b": "black-forest-labs/FLUX.2-klein-4B",
        "klein-base-9b": "black-forest-labs/FLUX.2-klein-base-9B",
        "klein-9b": "black-forest-labs/FLUX.2-klein-9B",
    }

    def guides(self, parameters: SampleParameters, conditioning: Conditioning) -> bool:
        return not self.distilled

    @property
    def distilled(self) -> bool:
        """True for the versions that are sampled without guidance, in few steps."""
        return self.version in self.spec.distilled

    def warnings(self, parameters: SampleParameters, vae: VaeOptions) -> tuple[str, ...]:
        warnings = super().warnings(parameters, vae)
        if self.distilled and parameters.sample_steps != DISTILLED_STEPS:
            steps = f"--s {DISTILLED_STEPS} is how {self.version} is meant to be sampled, not --s"
            warnings = (*warnings, f"{steps} {parameters.sample_steps}")
        return warnings

    def pipeline(self, **parts: Any) -> Any:
        scheduler = FlowMatchEulerDiscreteScheduler()
        return ReferencePipeline(
            tokenizer=None, text_encoder=None, is_distilled=self.distilled, scheduler=scheduler, **parts
        )
