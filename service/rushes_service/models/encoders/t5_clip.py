"""FLUX's text encoders, there only as long as a prompt is encoded: T5 for single words, CLIP for the whole.

Encoded through `FluxKontextPipeline`: T5 over 512 padded tokens without a mask, CLIP's pooled output over 77, as in
musubi-tuner 0.3.4 (flux_kontext_train_network.py).
"""

from __future__ import annotations

import gc
from typing import Any

import torch
from diffusers import FluxKontextPipeline
from transformers import AutoTokenizer, CLIPTextModel, T5EncoderModel

from rushes_service.models.conditioning import Conditioning
from rushes_service.models.loading.errors import loading
from rushes_service.models.loading.from_repo import Source, quiet_loading_bars
from rushes_service.runtime.float8 import encoder_in_float8

COMPONENTS = ("tokenizer", "text_encoder", "tokenizer_2", "text_encoder_2")
T5_TOKENS = 512


class TextEncoders:
    """CLIP and T5, loaded at their first use.

    Args:
        float8: store T5 in float8.
    """

    def __init__(self, source: Source, device: torch.device, dtype: torch.dtype, *, float8: bool = False) -> None:
        self._source = source
        self._device = device
        self._dtype = dtype
        self._float8 = float8
        self._pipe: FluxKontextPipeline | None = None

    @torch.no_grad()
    def encode(self, text: str) -> Conditioning:
        """Embeddings of one text: `prompt_embeds` [1, 512, joint_dim] and `pooled_prompt_embeds` [1, pooled_dim].

        Raises:
            ModelError: the model lacks an encoder or a tokenizer, or one cannot be loaded.
        """
        if self._pipe is None:
            self._pipe = self._load()
        embeds, pooled, _ = self._pipe.encode_prompt(text, device=self._device, max_sequence_length=T5_TOKENS)
        return {"prompt_embeds": embeds, "pooled_prompt_embeds": pooled}

    def _load(self) -> FluxKontextPipeline:
        quiet_loading_bars()
        parts: dict[str, Any] = {}
        for name, kind in zip(COMPONENTS, (AutoTokenizer, CLIPTextModel, AutoTokenizer, T5EncoderModel), strict=True):
            if kind is AutoTokenizer:
                path = self._source.component(name)
                with loading(path):
                    parts[name] = kind.from_pretrained(path)
            else:
                model = self._source.load(name, kind, self._dtype).eval()
                if self._float8 and kind is T5EncoderModel:
                    encoder_in_float8(model)
                parts[name] = model.to(self._device)
        return FluxKontextPipeline(**parts, vae=None, scheduler=None, transformer=None)

    def free(self) -> None:
        """Give the encoders' memory back."""
        if self._pipe is not None:
            self._pipe = None
            gc.collect()
            if self._device.type == "cuda":
                torch.cuda.empty_cache()
