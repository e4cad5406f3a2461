"""What the room of shared VAEs declares."""

from __future__ import annotations

from rushes_service.models.rooms import FileKind, Room

ROOM = Room(
    file_kinds=(FileKind("image-vae", "the VAE of an image model", "--vae", ("decoder.conv_in.weight",)),),
)
