"""What Z-Image's room declares."""

from __future__ import annotations

from rushes_service.models.rooms import Family, FileKind, Room

ROOM = Room(
    families={"z-image": Family("t2i:ZImage", "tiny:build_tiny_zimage")},
    file_kinds=(
        FileKind(
            "z-image-transformer",
            "a Z-Image transformer",
            "--dit",
            ("noise_refiner.0.feed_forward.w1.weight",),
        ),
    ),
)
