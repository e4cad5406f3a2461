"""What the room of text and image encoders declares."""

from __future__ import annotations

from rushes_service.models.rooms import FileKind, Room

ROOM = Room(
    file_kinds=(
        FileKind(
            "umt5",
            "the text encoder UMT5",
            "--t5",
            ("blocks.0.pos_embedding.embedding.weight", "block.1.layer.0.SelfAttention.relative_attention_bias.weight"),
        ),
        FileKind("t5", "the text encoder T5", "--text_encoder1", ("block.0.layer.0.SelfAttention.q.weight",)),
        FileKind(
            "llava",
            "Llava, a text encoder that sees pictures",
            "--text_encoder1",
            ("projector.linear_1.weight",),
        ),
        FileKind("llama", "the text encoder Llama", "--text_encoder1", ("layers.0.mlp.gate_proj.weight",)),
        FileKind("clip-vision", "CLIP's image encoder", "--clip", ("cls_embedding", "embeddings.class_embedding")),
        FileKind("clip-text", "CLIP's text encoder", "--text_encoder2", ("embeddings.token_embedding.weight",)),
        FileKind("siglip", "the image encoder SigLIP", "--image_encoder", ("embeddings.patch_embedding.bias",)),
    ),
    processors={"feature_extractor": ("image_encoder", "siglip_processor")},
)
