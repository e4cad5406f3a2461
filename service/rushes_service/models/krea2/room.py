"""What Krea 2's room declares."""

from __future__ import annotations

from rushes_service.models.rooms import Family, FileKind, Room

ROOM = Room(
    families={"krea2": Family("t2i:Krea2", "tiny:build_tiny_krea2")},
    file_kinds=(
        FileKind(
            "krea2-transformer",
            "a Krea 2 transformer",
            "--dit",
            ("txtfusion.projector.weight", "text_fusion.projector.weight"),
        ),
    ),
)
