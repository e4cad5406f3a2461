"""Kandinsky 5's attention in the precision of its inputs; diffusers rounds queries and keys to bfloat16 on the way."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812  # its usual name

from rushes_service.runtime.compat_diffusers_models import Kandinsky5Attention


class Attention:
    """A processor that differs from diffusers' own in float32 and float16 alone."""

    def __call__(
        self,
        attn: Kandinsky5Attention,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        rotary_emb: torch.Tensor | None = None,
        sparse_params: Any = None,
    ) -> torch.Tensor:
        """Attention of `hidden_states` [1, ..., n, C] to itself, or to `encoder_hidden_states` [1, m, C]."""
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query, key, value = (
            project(inputs).unflatten(-1, (attn.num_heads, -1))
            for project, inputs in (
                (attn.to_query, hidden_states),
                (attn.to_key, context),
                (attn.to_value, context),
            )
        )
        query = attn.query_norm(query.float()).type_as(query)
        key = attn.key_norm(key.float()).type_as(key)
        if rotary_emb is not None:
            query, key = (rotated(each, rotary_emb) for each in (query, key))
        heads = (each.transpose(1, 2) for each in (query, key, value))
        mixed = F.scaled_dot_product_attention(*heads).transpose(1, 2)
        return attn.out_layer(mixed.flatten(-2))  # type: ignore[no-any-return]


def rotated(tokens: torch.Tensor, rotary: torch.Tensor) -> torch.Tensor:
    """`tokens` [1, n, heads, C], turned in pairs of channels by `rotary` [1, n, 1, C/2, 2, 2]."""
    pairs = tokens.float().unflatten(-1, (-1, 1, 2))
    return (rotary * pairs).sum(dim=-1).flatten(-2).type_as(tokens)


def keep_precision(transformer: nn.Module) -> None:
    """Give every attention of `transformer` the processor above."""
    for module in transformer.modules():
        if isinstance(module, Kandinsky5Attention):
            module.set_processor(Attention())
