"""HunyuanVideo's two text encoders, there only as long as prompts are encoded."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import HunyuanVideoPipeline
from transformers import AutoTokenizer, CLIPTextModel, LlamaModel

from rushes_service.models.conditioning import Conditioning
from rushes_service.models.encoder import LazyEncoder

TEXT_PARTS = ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")
"""Components that text embeddings depend on."""


class HunyuanText(LazyEncoder):
    """Llama and CLIP; float8 is for Llama alone.

    Encodes through `HunyuanVideoPipeline`: a system prompt of 95 tokens around the text, which is cut off again, and
    the last but two hidden states of up to 256 tokens.
    """

    parts = TEXT_PARTS

    @torch.no_grad()
    def encode(self, text: str, **options: Any) -> Conditioning:
        """Embeddings of one text: `prompt_embeds` [1, 256, dim], its `prompt_attention_mask`, `pooled_prompt_embeds`.

        Raises:
            ModelError: the model has no text encoders or tokenizers, or they cannot be loaded.
        """
        embeds, pooled, mask = self.loaded.encode_prompt(prompt=text, device=self.device, **options)
        return {"prompt_embeds": embeds, "pooled_prompt_embeds": pooled, "prompt_attention_mask": mask}

    def load(self) -> Any:
        return HunyuanVideoPipeline(
            tokenizer=self.part("tokenizer", AutoTokenizer),
            tokenizer_2=self.part("tokenizer_2", AutoTokenizer),
            text_encoder=self.encoder("text_encoder", LlamaModel),
            text_encoder_2=self.encoder("text_encoder_2", CLIPTextModel, rounded=None),
            vae=None,
            scheduler=None,
            transformer=None,
        )
