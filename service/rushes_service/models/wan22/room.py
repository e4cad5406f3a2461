"""What Wan2.2's room declares."""

from __future__ import annotations

from rushes_service.models.rooms import Family, Room

ROOM = Room(
    families={
        "wan2.2-t2v-a14b": Family("t2v:WanTwoExperts", "tiny:build_tiny_wan22_t2v"),
        "wan2.2-i2v-a14b": Family("i2v:WanTwoExpertsFromImage", "tiny:build_tiny_wan22_i2v"),
    },
)
