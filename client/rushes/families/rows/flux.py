"""FLUX.1 Kontext and FLUX.2. Defaults are those of musubi-tuner 0.3.4's flux_kontext_ and flux_2_train_network.py."""

from __future__ import annotations

from dataclasses import replace

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
    drafts=True,
    sampled=True,
    files=FLUX_FILES,
)

FLUX2_FILES = (
    ModelFile("dit", "transformer", ("flux2-transformer",)),
    ModelFile("vae", "vae", ("flux2-vae",)),
    ModelFile("text_encoder", "text_encoder", ("qwen3",)),
    ModelFile("tokenizer1", "tokenizer"),
)

FLUX2_KLEIN = ArchitectureSpec(
    name="flux2-klein",
    title="FLUX.2 klein, pictures from words and pictures",
    hub_id="black-forest-labs/FLUX.2-klein-base-4B",
    size_multiple=16,
    frame_stride=1,
    fps=1,
    cfg="by_guidance",
    guidance_scale=4.0,
    negative_prompt=" ",
    flow_shift=None,
    dynamic_shift=True,
    uses=frozenset({"control_image_path"}),
    image_only=True,
    versions=("klein-base-4b", "klein-4b", "klein-base-9b", "klein-9b"),
    distilled=frozenset({"klein-4b", "klein-9b"}),
    sampled=True,
    files=FLUX2_FILES,
)

FLUX2_DEV = replace(
    FLUX2_KLEIN,
    name="flux2-dev",
    title="FLUX.2 dev, pictures from words and pictures",
    hub_id="black-forest-labs/FLUX.2-dev",
    cfg="never",
    negative_prompt=None,
    versions=("dev",),
    distilled=frozenset(),
    files=(*FLUX2_FILES[:2], ModelFile("text_encoder", "text_encoder", ("mistral3",)), FLUX2_FILES[3]),
)

FAMILIES = (FLUX1_KONTEXT, FLUX2_KLEIN, FLUX2_DEV)
