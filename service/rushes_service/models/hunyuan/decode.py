"""The VAE of HunyuanVideo, SkyReels and FramePack: whole clips, exactly, in as little memory as the options ask for.

The normalisation layers take statistics over the whole clip, so frames cannot be decoded one by one without changing
them. diffusers does so all the same by default, in clips of 16 frames; here that is always off. Two options lower the
peak: `chunk_size` convolves strips of the width one after another (same values), tiles decode parts of the picture on
their own (approximate, as in musubi-tuner).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from functools import partial

import torch
from diffusers import AutoencoderKLHunyuanVideo
from torch.nn import functional as F  # noqa: N812  # its usual name

from rushes.wire.jobs import VaeOptions
from rushes_service.models.hunyuan.decode_attention import attend_by_frames
from rushes_service.models.vae.tiles import TilePlan, plan_tiles
from rushes_service.runtime.compat_diffusers_models import (
    DiagonalGaussianDistribution,
    HunyuanVideoCausalConv3d,
    HunyuanVideoUpsampleCausal3D,
    causal_padding,
)

MOST_NUMBERS = 2**31 - 1
"""That a CUDA kernel may be trusted to count."""


@torch.no_grad()
def decode_hunyuan(vae: AutoencoderKLHunyuanVideo, latents: torch.Tensor, options: VaeOptions) -> torch.Tensor:
    """Pixels [1, 3, 4(T-1)+1, 8h, 8w], about -1..1 and not clamped, of unscaled latents [1, 16, T, h, w].

    Latents must have the VAE's dtype and device.
    """
    multiple = vae.spatial_compression_ratio
    height, width = (multiple * size for size in latents.shape[-2:])
    with configured(vae, plan_tiles(options, width, height, multiple), options.chunk_size):
        return vae.decode(latents, return_dict=False)[0]


@torch.no_grad()
def encode_hunyuan(
    vae: AutoencoderKLHunyuanVideo, pixels: torch.Tensor, options: VaeOptions
) -> DiagonalGaussianDistribution:
    """Posterior, before scaling, of pixels [1, 3, F, H, W] in -1..1 that have the VAE's dtype and device."""
    tiles = plan_tiles(options, pixels.shape[-1], pixels.shape[-2], vae.spatial_compression_ratio)
    with configured(vae, tiles, options.chunk_size):
        return vae.encode(pixels).latent_dist


@contextlib.contextmanager
def configured(vae: AutoencoderKLHunyuanVideo, tiles: TilePlan | None, chunk_size: int | None) -> Iterator[None]:
    """Inside, `vae` is exact in time and needs no large masks, and is tiled and chunked as given; not so afterwards."""
    vae.use_framewise_decoding = vae.use_framewise_encoding = False
    convolutions = [module for module in vae.modules() if isinstance(module, HunyuanVideoCausalConv3d)]
    enlarging = [module for module in vae.modules() if isinstance(module, HunyuanVideoUpsampleCausal3D)]
    middles = (vae.encoder.mid_block, vae.decoder.mid_block)
    try:
        for block in middles:
            block.forward = partial(attend_by_frames, block)
        if tiles is not None:
            vae.enable_tiling(tiles.size, tiles.size, None, tiles.stride, tiles.stride, None)
        for layer in enlarging:
            layer.forward = partial(enlarge_by_frames, layer)
        if chunk_size is not None:
            for layer in convolutions:
                layer.forward = partial(convolve_in_strips, layer, chunk_size)
        yield
    finally:
        vae.use_tiling = False
        for module in (*convolutions, *enlarging, *middles):
            vars(module).pop("forward", None)


def enlarge_by_frames(layer: HunyuanVideoUpsampleCausal3D, features: torch.Tensor) -> torch.Tensor:
    """`layer(features)`, [B, C, T, H, W], enlarged a frame at a time where the result has many numbers: the same bits.

    CUDA's kernel for all of them at once counts with 32 bits. Beyond 2**31 numbers PyTorch 2.6 refuses, and beyond
    2**32 later versions leave a part of them unwritten without a word: 49 frames of 480 x 832 are more.
    """
    in_time, down, across = (int(factor) for factor in layer.upsample_factor)
    batch, channels, frames, height, width = features.shape
    shape = (batch, channels, 1 + (frames - 1) * in_time, height * down, width * across)
    if math.prod(shape) <= MOST_NUMBERS:
        return type(layer).forward(layer, features)  # type: ignore[no-any-return]
    enlarged = features.new_empty(shape)
    for frame in range(frames):
        # The first frame stays one: the VAE is causal.
        start, stop = (0, 1) if frame == 0 else (1 + (frame - 1) * in_time, 1 + frame * in_time)
        one = F.interpolate(features[:, :, frame], scale_factor=(down, across), mode="nearest")
        enlarged[:, :, start:stop] = one[:, :, None]
    return layer.conv(enlarged)  # type: ignore[no-any-return]


def convolve_in_strips(layer: HunyuanVideoCausalConv3d, columns: int, features: torch.Tensor) -> torch.Tensor:
    """`layer(features)`, [B, C, T, H, W], made `columns` output columns at a time.

    Each strip is padded by itself, so that no padded copy of the whole input is ever held.
    """
    kernel, stride, margin = layer.conv.kernel_size[2], layer.conv.stride[2], layer.conv.padding[2]
    left, right, *others = causal_padding(layer)
    width = features.shape[-1]
    total = (width + left + right + 2 * margin - kernel) // stride + 1
    if total <= columns or margin:
        return type(layer).forward(layer, features)
    strips = []
    for start in range(0, total, columns):
        stop = min(start + columns, total)
        # Columns of the padded input that these outputs look at, then of the input itself.
        first, last = start * stride - left, (stop - 1) * stride + kernel - left
        strip = features[..., max(first, 0) : min(last, width)]
        padding = (max(-first, 0), max(last - width, 0), *others)
        strips.append(layer.conv(F.pad(strip, padding, mode=layer.pad_mode)))
    return torch.cat(strips, dim=-1)
