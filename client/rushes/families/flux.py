"""FLUX.1 Kontext. Defaults are those of musubi-tuner 0.3.4's flux_kontext_train_network.py."""

from __future__ import annotations

from rushes.families.spec import ArchitectureSpec, ModelFile

FLUX_FILES = (
    ModelFile("dit", "transformer", ("flux-transformer",)),
    ModelFile("vae", "vae", ("image-vae",)),
    ModelFile("text_encoder1", "text_encoder_2", ("t5",)),
    ModelFile("text_encoder2", "text_encoder", ("clip-text",)),
    ModelFile("tokenizer1", "tokenizer_2"),
    ModelFile("tokenizer2", "tokenizer"),
)

FLUX1_KONTEXT = ArchitectureSpec(
    name="flux1-kontext",
    title="FLUX.1 Kontext, pictures from words and a picture",
    hub_id="black-forest-labs/FLUX.1-Kontext-dev",
    size_multiple=16,
    frame_stride=1,
    fps=1,
    cfg="never",
    guidance_scale=2.5,
    dynamic_shift=True,
    uses=frozenset({"control_image_path"}),
    image_only=True,
    control_images=1,
    sampled=True,
    files=FLUX_FILES,
)

FAMILIES = (FLUX1_KONTEXT,)
