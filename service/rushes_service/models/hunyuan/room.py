"""What HunyuanVideo's room declares."""

from __future__ import annotations

from rushes_service.models.rooms import Family, FileKind, Room

ROOM = Room(
    families={
        "hunyuan-video": Family("t2v:HunyuanVideo", "tiny:build_tiny_hunyuan"),
        "hunyuan-video-i2v": Family("i2v:HunyuanVideoImageToVideo", "tiny:build_tiny_hunyuan_i2v"),
        "skyreels-v1-t2v": Family("t2v:SkyReelsTextToVideo", "tiny:build_tiny_hunyuan"),
        "skyreels-v1-i2v": Family("skyreels_i2v:SkyReelsImageToVideo", "tiny:build_tiny_skyreels_i2v"),
    },
    file_kinds=(
        FileKind(
            "hunyuan-transformer",
            "a HunyuanVideo or SkyReels transformer",
            "--dit",
            ("double_blocks.0.img_attn_qkv.weight", "token_refiner.refiner_blocks.0.attn.to_q.weight"),
        ),
        FileKind("hunyuan-vae", "HunyuanVideo's VAE", "--vae", ("decoder.conv_in.conv.weight",)),
    ),
)
