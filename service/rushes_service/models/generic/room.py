"""What the room of any pipeline declares."""

from __future__ import annotations

from rushes_service.models.rooms import Family, Room

ROOM = Room(families={"diffusers": Family("pipeline:AnyPipeline", "tiny:build_tiny_sdxl")})
