"""Wan's text encoder: UMT5, there only as long as a prompt is encoded."""

from __future__ import annotations

import gc

import torch
from diffusers import WanPipeline
from transformers import AutoTokenizer, UMT5EncoderModel

from rushes_service.models.conditioning import Conditioning
from rushes_service.models.loading.errors import loading
from rushes_service.models.loading.from_repo import Source, quiet_loading_bars
from rushes_service.runtime.float8 import encoder_in_float8

TEXT_TOKENS = 512
"""Wan's attention takes this many text tokens for granted, whatever the prompt's length."""


class TextEncoder:
    """UMT5, loaded at its first use. Encodes through `WanPipeline`, which pads with zeros to 512 tokens.

    Args:
        float8: store it in float8.
    """

    def __init__(self, source: Source, device: torch.device, dtype: torch.dtype, *, float8: bool = False) -> None:
        self._source = source
        self._device = device
        self._dtype = dtype
        self._float8 = float8
        self._pipe: WanPipeline | None = None

    @torch.no_grad()
    def encode(self, text: str) -> Conditioning:
        """Embedding of one text: `embeds` [1, 512, text_dim].

        Raises:
            ModelError: the model has no text encoder or tokenizer, or they cannot be loaded.
        """
        if self._pipe is None:
            self._pipe = self._load()
        embeds, _ = self._pipe.encode_prompt(
            text, do_classifier_free_guidance=False, max_sequence_length=TEXT_TOKENS, device=self._device
        )
        return {"embeds": embeds}

    def _load(self) -> WanPipeline:
        quiet_loading_bars()
        tokenizer = self._source.component("tokenizer")
        with loading(tokenizer):
            words = AutoTokenizer.from_pretrained(tokenizer)
        model = self._source.load("text_encoder", UMT5EncoderModel, self._dtype).eval()
        if self._float8:
            encoder_in_float8(model)
        model.to(self._device)
        return WanPipeline(tokenizer=words, text_encoder=model, vae=None, scheduler=None, transformer=None)

    def free(self) -> None:
        """Give the encoder's memory back."""
        if self._pipe is not None:
            self._pipe = None
            gc.collect()
            if self._device.type == "cuda":
                torch.cuda.empty_cache()
