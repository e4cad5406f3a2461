"""What encoders of text share: nothing is loaded before the first text, and everything is given back at the end."""

from __future__ import annotations

import gc
from typing import Any, ClassVar

import torch

from rushes_service.models.loading.errors import loading
from rushes_service.models.loading.from_repo import Source, quiet_loading_bars
from rushes_service.runtime.float8 import encoder_in_float8


class LazyEncoder:
    """A text encoder and its tokenizer, loaded at their first use.

    Args:
        float8: store the encoder in float8.
    """

    parts: ClassVar[tuple[str, ...]] = ("text_encoder", "tokenizer")
    """Components that an embedding depends on."""

    def __init__(self, source: Source, device: torch.device, dtype: torch.dtype, *, float8: bool = False) -> None:
        self.source = source
        self.device = device
        self.dtype = dtype
        self.float8 = float8
        self._loaded: Any = None

    @property
    def loaded(self) -> Any:
        """What `load` makes."""
        if self._loaded is None:
            quiet_loading_bars()
            self._loaded = self.load()
        return self._loaded

    def load(self) -> Any:
        """Whatever encodes.

        Raises:
            ModelError: a part is not there, or cannot be loaded.
        """
        raise NotImplementedError

    def part(self, name: str, kind: Any) -> Any:
        """A tokenizer or processor of class `kind`; raises `ModelError`."""
        directory = self.source.component(name)
        with loading(directory):
            return kind.from_pretrained(directory)

    def encoder(self, name: str, kind: Any) -> Any:
        """A language model of class `kind`, on the device; raises `ModelError`."""
        model = self.source.load(name, kind, self.dtype).eval()
        if self.float8:
            encoder_in_float8(model)
        return model.to(self.device)

    def free(self) -> None:
        """Give the encoder's memory back."""
        if self._loaded is not None:
            self._loaded = None
            gc.collect()
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
