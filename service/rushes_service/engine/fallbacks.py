"""Fallbacks when memory runs out: the stage that failed is repeated in a way that needs less.

    load      default -> again, with other memory freed -> transformer offloaded block by block
    lora      the same as load
    encode    default -> base model on the CPU meanwhile -> text and image encoders on the CPU
    denoise   default -> again, with other memory freed -> transformer offloaded block by block
    decode    default -> again, alone -> smaller chunks -> base model on the CPU meanwhile -> tiles -> smaller tiles

Fallbacks that change no pixel come first. What worked is remembered for a while, see `fallback_memory`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rushes.wire.jobs import VaeOptions

Output = Literal["exact", "exact but for rounding", "approximate"]
"""How the output of a fallback compares with that of the default."""

CHUNK = 32
"""Columns that HunyuanVideo's VAE convolves at a time; musubi-tuner's advice for little memory."""

TILES = (256, 128)
"""Pixels, from diffusers' own default downwards. Smaller ones show."""


@dataclass(frozen=True)
class Fallback:
    """One way to do a stage.

    Args:
        vae: how to decode; None is as asked.
        transformer_on_cpu: the transformer is on the CPU meanwhile.
        encoders_on_cpu: text and image encoders run there.
        offload: from now on, each block of the transformer is on the device only while it computes.
    """

    name: str
    output: Output = "exact"
    vae: VaeOptions | None = None
    transformer_on_cpu: bool = False
    encoders_on_cpu: bool = False
    offload: bool = False


DEFAULT = Fallback("as asked")
AGAIN = Fallback("again, with other memory freed")
ENCODE = (
    DEFAULT,
    Fallback("base model on the CPU meanwhile", transformer_on_cpu=True),
    Fallback("encoders on the CPU", "exact but for rounding", encoders_on_cpu=True),
)
LOAD = LORA = DENOISE = (DEFAULT, AGAIN, Fallback("transformer offloaded block by block", offload=True))


def decode_fallbacks(
    asked: VaeOptions, width: int, height: int, *, chunked: bool, apart: bool = False
) -> tuple[Fallback, ...]:
    """Ways to decode a picture of `width` x `height` pixels; `chunked` if the VAE can convolve in strips.
    `apart`: on another device than the base model's.

    A GPU chooses its algorithms by the width of a strip, so chunks there are exact but for rounding.
    """
    fallbacks = [DEFAULT, AGAIN]
    vae = asked
    output: Output = "exact"
    if chunked and (asked.chunk_size is None or asked.chunk_size > CHUNK):
        vae, output = asked.model_copy(update={"chunk_size": CHUNK}), "exact but for rounding"
        fallbacks.append(Fallback(f"chunks of {CHUNK} columns", output, vae=vae))
    if not apart:
        fallbacks.append(Fallback("base model on the CPU meanwhile", output, vae=vae, transformer_on_cpu=True))
    present = asked.spatial_tile_sample_min_size or (TILES[0] if asked.tiling else max(width, height))
    for size in TILES:
        if size < min(present, max(width, height)):
            tiled = vae.model_copy(update={"tiling": True, "spatial_tile_sample_min_size": size})
            fallbacks.append(
                Fallback(f"tiles of {size} pixels", "approximate", vae=tiled, transformer_on_cpu=not apart)
            )
    return tuple(fallbacks)
