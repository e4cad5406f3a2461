"""HunyuanVideo's text without its padding, and attention without a mask: the same numbers but for rounding.

diffusers pads texts and masks what it has padded, for which PyTorch has no fast kernels.
A single text needs no padding.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from rushes_service.models.conditioning import Conditioning
from rushes_service.runtime.compat_diffusers_models import HunyuanVideoAttention

MASK = "prompt_attention_mask"
EMBEDS = "prompt_embeds"


class Attention(HunyuanVideoAttention):  # type: ignore[misc]
    """diffusers' joint attention; without its mask where `masked` is False, because every token counts."""

    masked = True

    def __call__(
        self,
        attn: nn.Module,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        image_rotary_emb: Any = None,
    ) -> Any:
        """As diffusers' processor."""
        mask = attention_mask if self.masked else None
        return super().__call__(attn, hidden_states, encoder_hidden_states, mask, image_rotary_emb)


def give_attention(transformer: nn.Module) -> Attention:
    """Let the blocks of `transformer` compute attention by one `Attention`; returns it."""
    attention = Attention()
    for blocks in (transformer.transformer_blocks, transformer.single_transformer_blocks):
        for block in blocks:
            block.attn.set_processor(attention)
    return attention


def padding_is_behind(conditioning: Conditioning) -> bool:
    """True if each text is one of its own, whose padding is behind all that counts: it can be cut."""
    masks = [mask.bool() for name, mask in conditioning.items() if name.endswith(MASK)]
    return all(len(mask) == 1 and bool(mask[0, : int(mask.sum())].all()) for mask in masks)


def without_padding(conditioning: Conditioning) -> Conditioning:
    """`conditioning` with texts that are cut behind their last token; see `padding_is_behind`."""
    cut = dict(conditioning)
    for name in (name for name in conditioning if name.endswith(MASK)):
        count = int(conditioning[name].sum())
        embeds = name.removesuffix(MASK) + EMBEDS
        cut |= {name: conditioning[name][:, :count], embeds: conditioning[embeds][:, :count]}
    return cut
