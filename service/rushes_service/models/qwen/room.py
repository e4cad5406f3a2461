"""What Qwen-Image's room declares."""

from __future__ import annotations

from rushes_service.models.rooms import Family, FileKind, Room

ROOM = Room(
    families={
        "qwen-image": Family("t2i:QwenTextToImage", "tiny:build_tiny_qwen"),
        "qwen-image-edit": Family("edit:QwenImageEdit", "tiny:build_tiny_qwen_edit"),
        "qwen-image-layered": Family("layered:QwenImageLayered", "tiny:build_tiny_qwen_layered"),
    },
    file_kinds=(
        FileKind(
            "qwen-image-transformer",
            "a Qwen-Image transformer",
            "--dit",
            ("transformer_blocks.0.img_mod.1.weight",),
        ),
    ),
)
