"""Latents to pixels, a few frames at a time where the VAE allows it."""

from rushes_service.decode.hunyuan import decode_hunyuan, encode_hunyuan
from rushes_service.decode.kl import decode_kl, plan_kl_tiles
from rushes_service.decode.tiles import TilePlan, plan_tiles
from rushes_service.decode.wan import stream_wan, to_uint8

__all__ = [
    "TilePlan",
    "decode_hunyuan",
    "decode_kl",
    "encode_hunyuan",
    "plan_kl_tiles",
    "plan_tiles",
    "stream_wan",
    "to_uint8",
]
