"""flux2-dev: Mistral reads the words, and `--g` is an input of the transformer."""

from __future__ import annotations

from typing import Any, ClassVar

from diffusers import Flux2Pipeline

from rushes.families.flux import FLUX2_DEV
from rushes.families.parameters import SampleParameters
from rushes.families.spec import ArchitectureSpec
from rushes.wire.jobs import VaeOptions
from rushes_service.models.conditioning import Conditioning, ConditioningCache
from rushes_service.models.flux2.base import Flux2
from rushes_service.models.llm.mistral import Flux2DevText
from rushes_service.runtime.float8 import precision


class Flux2Dev(Flux2):
    """flux2-dev."""

    spec: ClassVar[ArchitectureSpec] = FLUX2_DEV
    pipelines = ("Flux2Pipeline",)
    guidance_embeds = True
    hub_ids: ClassVar[dict[str, str]] = {"dev": "black-forest-labs/FLUX.2-dev"}

    def warnings(self, parameters: SampleParameters, vae: VaeOptions) -> tuple[str, ...]:
        warnings = super().warnings(parameters, vae)
        if self.model.fp8_text_encoder:
            warnings = (*warnings, "--fp8_text_encoder changes nothing for flux2-dev: it is for klein's Qwen3 alone")
        return warnings

    def pipeline(self, **parts: Any) -> Any:
        return Flux2Pipeline(tokenizer=None, text_encoder=None, **parts)

    def text_key(self, text: str) -> dict[str, Any]:
        """Cache key of a text's embedding, see `Flux2DevText.encode`."""
        if self._text_files is None:
            self._text_files = self.source.fingerprint(Flux2DevText.parts)
        dtype = precision(self.dtype, float8=False)
        return {"kind": "flux2-dev", "files": self._text_files, "dtype": dtype, "text": text}

    def encode(self, parameters: SampleParameters, cache: ConditioningCache) -> Conditioning:
        text = parameters.prompt
        encoder = Flux2DevText(self.source, self.device, self.dtype)
        try:
            found = cache.get(self.text_key(text), lambda: encoder.encode(text))["embeds"]
        finally:
            encoder.free()
        return {"prompt_embeds": found.to(self.device, self.dtype)}
