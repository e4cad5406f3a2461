"""What Kandinsky 5's room declares."""

from __future__ import annotations

from rushes_service.models.rooms import Family, FileKind, Room

ROOM = Room(
    families={
        "kandinsky5-t2v": Family("video:Kandinsky5TextToVideo", "tiny:build_tiny_t2v"),
        "kandinsky5-i2v": Family("video:Kandinsky5ImageToVideo", "tiny:build_tiny_i2v"),
        "kandinsky5-t2i": Family("t2i:Kandinsky5TextToImage", "tiny:build_tiny_t2i"),
    },
    file_kinds=(
        FileKind(
            "kandinsky5-transformer",
            "a Kandinsky 5 transformer",
            "--dit",
            ("visual_transformer_blocks.0.visual_modulation.out_layer.weight",),
        ),
    ),
)
