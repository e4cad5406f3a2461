"""What HunyuanVideo 1.5's room declares."""

from __future__ import annotations

from rushes_service.models.rooms import Family, FileKind, Room

ROOM = Room(
    families={
        "hunyuan-video-1.5-t2v": Family("t2v:HunyuanVideo15", "tiny:build_tiny_t2v"),
        "hunyuan-video-1.5-i2v": Family("i2v:HunyuanVideo15ImageToVideo", "tiny:build_tiny_i2v"),
    },
    file_kinds=(
        FileKind(
            "hunyuan15-transformer",
            "a HunyuanVideo 1.5 transformer",
            "--dit",
            ("byt5_in.fc1.weight", "context_embedder_2.linear_1.weight"),
        ),
        FileKind(
            "hunyuan15-vae",
            "HunyuanVideo 1.5's VAE",
            "--vae",
            ("decoder.mid.attn_1.norm.gamma", "decoder.mid_block.attentions.0.proj_out.weight"),
        ),
    ),
)
