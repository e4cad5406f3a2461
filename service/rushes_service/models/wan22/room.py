"""What Wan2.2's room declares."""

from __future__ import annotations

from rushes_service.models.rooms import Family, FileKind, Room

ROOM = Room(
    families={
        "wan2.2-t2v-a14b": Family("t2v:WanTwoExperts", "tiny:build_tiny_wan22_t2v"),
        "wan2.2-i2v-a14b": Family("i2v:WanTwoExpertsFromImage", "tiny:build_tiny_wan22_i2v"),
        "wan2.2-ti2v-5b": Family("ti2v:WanTextImageToVideo", "tiny:build_tiny_wan22_ti2v"),
    },
    file_kinds=(
        FileKind(
            "wan22-vae",
            "Wan2.2's VAE",
            "--vae",
            ("encoder.downsamples.0.downsamples.0.residual.0.gamma", "encoder.down_blocks.0.resnets.0.norm1.gamma"),
        ),
    ),
)
