"""What FLUX.2's room declares."""

from __future__ import annotations

from rushes_service.models.rooms import Family, FileKind, Room

ROOM = Room(
    families={
        "flux2-klein": Family("klein:Flux2Klein", "tiny:build_tiny_klein"),
        "flux2-dev": Family("dev:Flux2Dev", "tiny_dev:build_tiny_flux2_dev"),
    },
    file_kinds=(
        FileKind(
            "flux2-transformer",
            "a FLUX.2 transformer",
            "--dit",
            ("double_stream_modulation_img.lin.weight", "double_stream_modulation_img.linear.weight"),
        ),
        FileKind("flux2-vae", "FLUX.2's VAE", "--vae", ("bn.running_mean",)),
    ),
)
