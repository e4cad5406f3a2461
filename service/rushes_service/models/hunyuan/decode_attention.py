"""The attention of HunyuanVideo's VAE without its mask, for long or large clips.

In the middle of encoder and decoder every position attends to all positions of its own and earlier frames. diffusers
writes that down as a mask over all pairs: 25 latent frames of 480 x 832 make 156000 positions, and a mask of 49 GB in
half precision. Attending frame by frame to what came before needs none.
"""

from __future__ import annotations

import torch
from torch.nn.functional import scaled_dot_product_attention

from rushes_service.runtime.compat_diffusers_models import Attention, HunyuanVideoMidBlock3D

MASKED_POSITIONS = 8192
"""Up to here the mask is small (256 MB in float32), and diffusers' own forward gives diffusers' own bits."""


def attend_by_frames(block: HunyuanVideoMidBlock3D, features: torch.Tensor) -> torch.Tensor:
    """`block(features)` of features [B, C, T, H, W], but for rounding where there are many positions."""
    if features[0, 0].numel() <= MASKED_POSITIONS:
        return type(block).forward(block, features)  # type: ignore[no-any-return]
    features = block.resnets[0](features)
    for attention, resnet in zip(block.attentions, block.resnets[1:], strict=True):
        if attention is not None:
            features = attended(attention, features)
        features = resnet(features)
    return features


def attended(attention: Attention, features: torch.Tensor) -> torch.Tensor:
    """Causal attention, with its residual, over features [B, C, T, H, W]."""
    shape = features.shape[2:]
    normed = attention.group_norm(features.flatten(2)).transpose(1, 2)
    query, key, value = (
        layer(normed).unflatten(-1, (attention.heads, -1)).transpose(1, 2)
        for layer in (attention.to_q, attention.to_k, attention.to_v)
    )
    frame = shape[1] * shape[2]
    ends = range(frame, shape.numel() + 1, frame)
    seen = [
        scaled_dot_product_attention(query[:, :, end - frame : end], key[:, :, :end], value[:, :, :end]) for end in ends
    ]
    mixed = attention.to_out[0](torch.cat(seen, dim=2).transpose(1, 2).flatten(2))
    return features + mixed.transpose(1, 2).unflatten(2, shape)
