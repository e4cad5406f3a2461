"""What the room of language models declares."""

from __future__ import annotations

from rushes_service.models.rooms import FileKind, Room

ROOM = Room(
    file_kinds=(
        FileKind(
            "qwen2.5-vl",
            "the language model Qwen2.5-VL",
            "--text_encoder",
            ("visual.blocks.0.mlp.gate_proj.weight",),
        ),
        FileKind(
            "mistral3",
            "the language model Mistral Small 3",
            "--text_encoder",
            ("multi_modal_projector.patch_merger.merging_layer.weight",),
        ),
        FileKind("qwen3-vl", "the language model Qwen3-VL", "--text_encoder", ("visual.pos_embed.weight",)),
        FileKind("qwen3", "the language model Qwen3", "--text_encoder", ("layers.0.self_attn.q_norm.weight",)),
    ),
)
