"""What FramePack's room declares."""

from __future__ import annotations

from rushes_service.models.rooms import Family, FileKind, Room

ROOM = Room(
    families={
        "framepack": Family("video:FramePack", "tiny:build_tiny_framepack"),
        "framepack-one-frame": Family("one_frame:FramePackOneFrame", "tiny:build_tiny_framepack"),
    },
    file_kinds=(
        FileKind("framepack-transformer", "a FramePack transformer", "--dit", ("clean_x_embedder.proj.weight",)),
    ),
)
