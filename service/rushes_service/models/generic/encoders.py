"""The encoders of any pipeline of diffusers."""

from __future__ import annotations

import json
from typing import Any

import torch

from rushes_service.lora.text_encoders import TextLoras
from rushes_service.models.encoder import LazyEncoder
from rushes_service.models.encoder_store import EncoderStore, Key
from rushes_service.models.generic.source import PipelineFiles


class PipelineEncoders(LazyEncoder):
    """All encoders that `model_index.json` names, with the LoRAs that change them.

    What has LoRAs in it is not kept: the next checkpoint has others.
    """

    def __init__(
        self, files: PipelineFiles, device: torch.device, dtype: torch.dtype, store: EncoderStore, loras: TextLoras
    ) -> None:
        super().__init__(files.source, device, dtype, store)
        self._files = files
        self._loras = loras
        self._kinds = files.modules(encoders=True)

    @property
    def key(self) -> Key:
        loras = json.dumps(self._loras.key(tuple(self._kinds)))
        return self._files.kind.__name__, self._files.texts_fingerprint(), str(self.dtype), loras

    def load(self) -> dict[str, Any]:
        """The encoders by name; raises `ModelError`, and as `LoraMerger.merge`."""
        merged = bool(self._loras.key(tuple(self._kinds)))
        found = {name: self.encoder(name, kind, keep=not merged) for name, kind in self._kinds.items()}
        for name, part in found.items():
            self._loras.merge_into(name, part)
        return found
