"""Latents to pixels, a few frames at a time."""

from rushes_service.decode.tiles import TilePlan, plan_tiles
from rushes_service.decode.wan import stream_wan, to_uint8

__all__ = ["TilePlan", "plan_tiles", "stream_wan", "to_uint8"]
