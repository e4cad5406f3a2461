"""Kandinsky 5. Defaults are those of musubi-tuner 0.3.4's kandinsky5_train_network.py; its `--task` is the version."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from rushes.families.spec import ArchitectureSpec, ModelFile

ENCODERS = (
    ModelFile("text_encoder_qwen", "text_encoder", ("qwen2.5-vl",), hub=True),
    ModelFile("text_encoder_clip", "text_encoder_2", ("clip-text",), hub=True),
    ModelFile("tokenizer1", "tokenizer"),
    ModelFile("tokenizer2", "tokenizer_2"),
)
DIT = ModelFile("dit", "transformer", ("kandinsky5-transformer",))


def sparse(tasks: Iterable[str]) -> Mapping[str, str]:
    """Tasks that need a kind of attention that is not served."""
    return dict.fromkeys(tasks, "it samples with sparse attention (NABLA), which Rushes cannot do yet")


KANDINSKY5_T2V = ArchitectureSpec(
    name="kandinsky5-t2v",
    title="Kandinsky 5 text to video",
    hub_id="kandinskylab/Kandinsky-5.0-T2V-Lite-sft-5s-Diffusers",
    size_multiple=16,
    size=512,
    sized_by_image=True,
    frame_stride=4,
    latent_frames=5,
    fps=24,
    steps=50,
    seed=42,
    cfg="by_guidance_unless_one",
    guidance_scale=5.0,
    negative_prompt="low quality, bad quality",
    flow_shift=None,
    uses=frozenset({"image_path"}),
    sampled=True,
    files=(DIT, ModelFile("vae", "vae", ("hunyuan-vae",)), *ENCODERS),
    version_flag="task",
    versions=(
        "k5-lite-t2v-5s-sd",
        "k5-pro-t2v-5s-sd",
        "k5-lite-t2v-5s-distil-sd",
        "k5-lite-t2v-5s-nocfg-sd",
        "k5-lite-t2v-5s-pretrain-sd",
    ),
    by_version={
        "k5-lite-t2v-5s-distil-sd": {"steps": 16, "guidance_scale": 1.0},
        "k5-lite-t2v-5s-nocfg-sd": {"guidance_scale": 1.0},
    },
    not_yet=sparse(
        (
            "k5-lite-t2v-10s-sd",
            "k5-pro-t2v-5s-hd",
            "k5-pro-t2v-10s-sd",
            "k5-pro-t2v-10s-hd",
            "k5-lite-t2v-10s-distil-sd",
            "k5-lite-t2v-10s-nocfg-sd",
            "k5-lite-t2v-10s-pretrain-sd",
        )
    ),
)

KANDINSKY5_I2V = replace(
    KANDINSKY5_T2V,
    name="kandinsky5-i2v",
    title="Kandinsky 5 image to video",
    hub_id="kandinskylab/Kandinsky-5.0-I2V-Lite-5s-Diffusers",
    requires=frozenset({"image_path"}),
    uses=frozenset(),
    versions=("k5-lite-i2v-5s-sd", "k5-pro-i2v-5s-sd"),
    by_version={},
    not_yet=sparse(("k5-pro-i2v-5s-hd",)),
)

KANDINSKY5_T2I = replace(
    KANDINSKY5_T2V,
    name="kandinsky5-t2i",
    title="Kandinsky 5, pictures from words",
    hub_id="kandinskylab/Kandinsky-5.0-T2I-Lite-sft-Diffusers",
    size=1024,
    sized_by_image=False,
    latent_frames=None,
    frame_stride=1,
    fps=1,
    guidance_scale=3.5,
    uses=frozenset(),
    image_only=True,
    versions=("k5-lite-t2i-hd",),
    by_version={},
    not_yet={"k5-lite-i2i-hd": "it edits pictures, which Rushes cannot do with Kandinsky yet"},
    files=(DIT, ModelFile("vae", "vae", ("image-vae",)), *ENCODERS),
)

FAMILIES = (KANDINSKY5_T2V, KANDINSKY5_I2V, KANDINSKY5_T2I)
