"""Z-Image. Defaults are those of musubi-tuner 0.3.4's zimage_train_network.py."""

from __future__ import annotations

from rushes.families.spec import ArchitectureSpec, ModelFile

Z_IMAGE = ArchitectureSpec(
    name="z-image",
    title="Z-Image, pictures from words",
    hub_id="Tongyi-MAI/Z-Image",
    size_multiple=16,
    frame_stride=1,
    fps=1,
    cfg="above_one",
    cfg_scale=4.0,
    flow_shift=3.0,
    image_only=True,
    sampled=True,
    files=(
        ModelFile("dit", "transformer", ("z-image-transformer",)),
        ModelFile("vae", "vae", ("image-vae",)),
        ModelFile("text_encoder", "text_encoder", ("qwen3",)),
        ModelFile("tokenizer1", "tokenizer"),
    ),
)

FAMILIES = (Z_IMAGE,)
