"""What Wan's room declares."""

from __future__ import annotations

from rushes_service.models.rooms import Family, FileKind, Room

VARIANTS = {16: "text to video", 36: "image to video", 48: "Fun-Control", 52: "Fun-Control with a reference image"}
"""What a transformer is for, by the channels it takes."""

ROOM = Room(
    families={
        "wan2.1-t2v": Family("t2v:WanTextToVideo", "tiny:build_tiny_wan"),
        "wan2.1-i2v": Family("i2v:WanImageToVideo", "tiny_variants:build_tiny_wan_i2v"),
        "wan2.1-flf2v": Family("flf2v:WanFirstLastFrame", "tiny_variants:build_tiny_wan_flf2v"),
        "wan-one-frame": Family("one_frame:WanOneFrame", "tiny_variants:build_tiny_wan_i2v"),
        "wan2.1-fun-control": Family("fun_control:WanFunControl", "tiny_variants:build_tiny_wan_fun_control"),
    },
    file_kinds=(
        FileKind(
            "wan-transformer",
            "a Wan transformer",
            "--dit",
            ("blocks.0.cross_attn.norm_k.weight", "blocks.0.attn2.norm_k.weight"),
            first_layer="patch_embedding.weight",
            variants=VARIANTS,
        ),
        FileKind(
            "wan-vae",
            "Wan's VAE",
            "--vae",
            ("decoder.middle.0.residual.0.gamma", "decoder.mid_block.resnets.0.norm1.gamma"),
        ),
    ),
)
