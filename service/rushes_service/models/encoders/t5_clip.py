"""FLUX's text encoders, there only as long as a prompt is encoded: T5 for single words, CLIP for the whole.

Encoded through `FluxKontextPipeline`: T5 over 512 padded tokens without a mask, CLIP's pooled output over 77, as in
musubi-tuner 0.3.4 (flux_kontext_train_network.py).
"""

from __future__ import annotations

import torch
from diffusers import FluxKontextPipeline
from transformers import AutoTokenizer, CLIPTextModel, T5EncoderModel

from rushes_service.models.conditioning import Conditioning
from rushes_service.models.encoder import LazyEncoder

T5_TOKENS = 512


class TextEncoders(LazyEncoder):
    """CLIP and T5; float8 is for T5 alone."""

    parts = ("tokenizer", "text_encoder", "tokenizer_2", "text_encoder_2")

    @torch.no_grad()
    def encode(self, text: str) -> Conditioning:
        """Embeddings of one text: `prompt_embeds` [1, 512, joint_dim] and `pooled_prompt_embeds` [1, pooled_dim].

        Raises:
            ModelError: the model lacks an encoder or a tokenizer, or one cannot be loaded.
        """
        embeds, pooled, _ = self.loaded.encode_prompt(text, device=self.device, max_sequence_length=T5_TOKENS)
        return {"prompt_embeds": embeds, "pooled_prompt_embeds": pooled}

    def load(self) -> FluxKontextPipeline:
        return FluxKontextPipeline(
            tokenizer=self.part("tokenizer", AutoTokenizer),
            text_encoder=self.encoder("text_encoder", CLIPTextModel, rounded=None),
            tokenizer_2=self.part("tokenizer_2", AutoTokenizer),
            text_encoder_2=self.encoder("text_encoder_2", T5EncoderModel),
            vae=None,
            scheduler=None,
            transformer=None,
        )
