"""HunyuanVideo's two text encoders, there only as long as prompts are encoded."""

from __future__ import annotations

import gc
from typing import Any

import torch
from diffusers import HunyuanVideoPipeline
from transformers import AutoTokenizer, CLIPTextModel, LlamaModel

from rushes_service.models.conditioning import Conditioning
from rushes_service.models.loading.errors import loading
from rushes_service.models.loading.from_repo import Source, quiet_loading_bars
from rushes_service.runtime.float8 import encoder_in_float8

TEXT_PARTS = ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")
"""Components that text embeddings depend on."""


def loaded_part(source: Source, name: str, kind: Any, **options: Any) -> Any:
    """One component, read by `kind.from_pretrained`.

    Raises:
        ModelError: the model has no such component, or it cannot be read.
    """
    quiet_loading_bars()
    directory = source.component(name)
    with loading(directory):
        return kind.from_pretrained(directory, **options)


class HunyuanText:
    """Llama and CLIP, loaded at their first use.

    Encodes through `HunyuanVideoPipeline`: a system prompt of 95 tokens around the text, which is cut off again, and
    the last but two hidden states of up to 256 tokens.

    Args:
        float8: store Llama in float8.
    """

    parts = TEXT_PARTS

    def __init__(self, source: Source, device: torch.device, dtype: torch.dtype, *, float8: bool = False) -> None:
        self.source = source
        self.device = device
        self.dtype = dtype
        self.float8 = float8
        self._pipe: Any = None

    @torch.no_grad()
    def encode(self, text: str, **options: Any) -> Conditioning:
        """Embeddings of one text: `prompt_embeds` [1, 256, dim], its `prompt_attention_mask`, `pooled_prompt_embeds`.

        Raises:
            ModelError: the model has no text encoders or tokenizers, or they cannot be loaded.
        """
        if self._pipe is None:
            self._pipe = self.pipeline()
        embeds, pooled, mask = self._pipe.encode_prompt(prompt=text, device=self.device, **options)
        return {"prompt_embeds": embeds, "pooled_prompt_embeds": pooled, "prompt_attention_mask": mask}

    def pipeline(self) -> Any:
        """The pipeline that encodes, with nothing in it but encoders and tokenizers."""
        return HunyuanVideoPipeline(
            tokenizer=loaded_part(self.source, "tokenizer", AutoTokenizer),
            tokenizer_2=loaded_part(self.source, "tokenizer_2", AutoTokenizer),
            text_encoder=self.encoder("text_encoder", LlamaModel),
            text_encoder_2=self.encoder("text_encoder_2", CLIPTextModel),
            vae=None,
            scheduler=None,
            transformer=None,
        )

    def encoder(self, name: str, kind: Any) -> Any:
        """One encoder on the device."""
        quiet_loading_bars()
        model = self.source.load(name, kind, self.dtype).eval()
        if self.float8 and name == "text_encoder":
            encoder_in_float8(self.llama(model))
        return model.to(self.device)

    def llama(self, model: Any) -> Any:
        """Llama, in the first encoder."""
        return model

    def free(self) -> None:
        """Give the encoders' memory back."""
        if self._pipe is not None:
            self._pipe = None
            gc.collect()
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
