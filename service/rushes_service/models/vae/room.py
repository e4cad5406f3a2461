"""What the room of shared VAEs declares."""

from __future__ import annotations

from rushes_service.models.rooms import FileKind, Room

ROOM = Room(
    file_kinds=(
        FileKind("image-vae", "the VAE of an image model", "--vae", ("decoder.conv_in.weight",)),
        # Named as Wan's, of which it is a copy: found as that one, and here for what messages call it.
        FileKind("qwen-image-vae", "Qwen-Image's VAE", "--vae", ("decoder.middle.0.residual.0.gamma",)),
    ),
)
