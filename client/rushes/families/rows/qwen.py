"""Qwen-Image's families, and Krea 2, which has its VAE and its words around a prompt.

Defaults are those of musubi-tuner 0.3.4's qwen_image_train_network.py and krea2_train_network.py.
"""

from __future__ import annotations

from dataclasses import replace

from rushes.families.spec import ArchitectureSpec, ModelFile

QWEN_FILES = (
    ModelFile("dit", "transformer", ("qwen-image-transformer",)),
    ModelFile("vae", "vae", ("qwen-image-vae", "wan-vae")),
    ModelFile("text_encoder", "text_encoder", ("qwen2.5-vl",)),
    ModelFile("tokenizer1", "tokenizer"),
)

QWEN_IMAGE = ArchitectureSpec(
    name="qwen-image",
    title="Qwen-Image, pictures from words",
    hub_id="Qwen/Qwen-Image",
    size_multiple=16,
    frame_stride=1,
    fps=1,
    cfg="above_one",
    cfg_scale=4.0,
    negative_prompt=" ",
    dynamic_shift=True,
    image_only=True,
    versions=("original",),
    drafts=True,
    sampled=True,
    files=QWEN_FILES,
)

QWEN_IMAGE_EDIT = replace(
    QWEN_IMAGE,
    name="qwen-image-edit",
    title="Qwen-Image-Edit, pictures from pictures and words",
    hub_id="Qwen/Qwen-Image-Edit",
    uses=frozenset({"control_image_path"}),
    versions=("edit", "edit-2509", "edit-2511"),
    files=(*QWEN_FILES[:-1], ModelFile("tokenizer1", "processor")),
)

QWEN_IMAGE_LAYERED = replace(
    QWEN_IMAGE,
    name="qwen-image-layered",
    title="Qwen-Image-Layered, a picture as layers with transparency",
    hub_id="Qwen/Qwen-Image-Layered",
    requires=frozenset({"control_image_path"}),
    control_images=1,
    layers=1,
    versions=("layered",),
)

KREA2 = ArchitectureSpec(
    name="krea2",
    title="Krea 2, pictures from words",
    hub_id="krea/Krea-2-Raw",
    size_multiple=16,
    size_floor=8,
    frame_stride=1,
    fps=1,
    cfg="with_negative_above_one",
    cfg_scale=5.5,
    flow_shift=None,
    image_only=True,
    versions=("raw", "turbo"),
    stand_ins=(("turbo_dit", "dit", "turbo"),),
    sampled=True,
    files=(
        ModelFile("dit", "transformer", ("krea2-transformer",)),
        QWEN_FILES[1],
        ModelFile("text_encoder", "text_encoder", ("qwen3-vl",)),
        QWEN_FILES[3],
    ),
)

FAMILIES = (QWEN_IMAGE, QWEN_IMAGE_EDIT, QWEN_IMAGE_LAYERED, KREA2)
