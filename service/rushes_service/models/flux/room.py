"""What FLUX's room declares."""

from __future__ import annotations

from rushes_service.models.rooms import Family, FileKind, Room

ROOM = Room(
    families={"flux1-kontext": Family("kontext:FluxKontext", "tiny:build_tiny_flux")},
    file_kinds=(
        FileKind(
            "flux-transformer",
            "a FLUX transformer",
            "--dit",
            ("double_blocks.0.img_attn.qkv.weight", "single_transformer_blocks.0.attn.to_q.weight"),
        ),
    ),
)
