"""The model families as facts: defaults, rounding, required and ignored options.

This is the light half of a family, which a trainer's environment can read without torch; how a
family is loaded and sampled lives in `rushes_service/architectures/`. Adding a family is one row here
and one file there. Defaults follow musubi-tuner 0.3.4's in-training sampler.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from rushes.errors import ArchitectureError

DEFAULT_SIZE = 256
"""Width and height in pixels when a prompt gives none: small, for quick training samples."""

DEFAULT_FRAMES = 1
DEFAULT_STEPS = 20
DEFAULT_FLOW_SHIFT = 14.5
"""The reference sampler's shift for every family, whatever the model was published with."""

WAN_NEGATIVE_PROMPT = (
    "色调艳丽，过曝，静态，细节模糊不清，字幕，风格，作品，画作，画面，静止，整体发灰，最差质量，低质量，"  # noqa: RUF001
    "JPEG压缩残留，丑陋的，残缺的，多余的手指，画得不好的手部，画得不好的脸部，畸形的，毁容的，形态畸形的肢体，手指融合，"  # noqa: RUF001
    "静止不动的画面，杂乱的背景，三条腿，背景人很多，倒着走"  # noqa: RUF001
)
"""Published with Wan2.1; used whenever a prompt has no `--n` of its own."""

CfgRule = Literal["unless_one", "with_negative", "with_scale", "never"]
"""When classifier-free guidance runs: always unless `--l 1`; only with both `--n` and `--l` other than 1; with `--l`
other than 1, the negative prompt being empty unless given; not at all."""

IMAGE_INPUTS = frozenset({"image_path", "end_image_path", "control_video_path", "control_image_path", "one_frame"})


@dataclass(frozen=True)
class ModelFile:
    """One part of a model that a trainer's flag names as a single file.

    `flag` is a field of `ModelSpec`, `component` the part's name in diffusers' layout, `looks` what the file may hold
    (see `rushes_service.models.loading.files.kinds`); a part without looks is a directory (a tokenizer).
    """

    flag: str
    component: str
    looks: tuple[str, ...] = ()


LLAMA_AND_CLIP = (
    ModelFile("vae", "vae", ("hunyuan-vae",)),
    ModelFile("text_encoder1", "text_encoder", ("llama", "llava")),
    ModelFile("text_encoder2", "text_encoder_2", ("clip-text",)),
    ModelFile("tokenizer1", "tokenizer"),
    ModelFile("tokenizer2", "tokenizer_2"),
)
HUNYUAN_FILES = (ModelFile("dit", "transformer", ("hunyuan-transformer",)), *LLAMA_AND_CLIP)
FRAMEPACK_FILES = (
    ModelFile("dit", "transformer", ("framepack-transformer",)),
    *LLAMA_AND_CLIP,
    ModelFile("image_encoder", "image_encoder", ("siglip",)),
)
WAN_FILES = (
    ModelFile("dit", "transformer", ("wan-transformer",)),
    ModelFile("vae", "vae", ("wan-vae",)),
    ModelFile("t5", "text_encoder", ("umt5",)),
    ModelFile("tokenizer1", "tokenizer"),
)
WAN_CLIP = ModelFile("clip", "image_encoder", ("clip-vision",))
FLUX_FILES = (
    ModelFile("dit", "transformer", ("flux-transformer",)),
    ModelFile("vae", "vae", ("image-vae",)),
    ModelFile("text_encoder1", "text_encoder_2", ("t5",)),
    ModelFile("text_encoder2", "text_encoder", ("clip-text",)),
    ModelFile("tokenizer1", "tokenizer_2"),
    ModelFile("tokenizer2", "tokenizer"),
)


@dataclass(frozen=True)
class ArchitectureSpec:
    """One model family.

    Sizes are floored to `size_multiple` pixels and frame counts to `frame_stride * k + 1`. `fps` is the rate the
    model was trained at. `uses` and `requires` name fields of `Prompt` beyond those every family has.
    """

    name: str
    title: str
    hub_id: str
    size_multiple: int
    frame_stride: int
    fps: int
    cfg: CfgRule
    cfg_scale: float = 1.0
    high_noise_cfg_scale: float | None = None
    """Of the expert for much noise, in a family of two; `cfg_scale` is the other's."""

    guidance_scale: float | None = None
    flow_shift: float | None = DEFAULT_FLOW_SHIFT
    negative_prompt: str | None = None
    transformer_hub_id: str | None = None
    """Where the transformer is published, if not in `hub_id`."""

    files: tuple[ModelFile, ...] = ()
    """What single files the family takes."""

    requires: frozenset[str] = frozenset()
    uses: frozenset[str] = frozenset()
    sections: bool = False
    """Clips are made of whole sections of the model's `latent_window_size` latent frames, at least one."""

    stills: bool = False
    """Makes single pictures, whatever `--f` says."""

    control_images: int | None = None
    """How many `--ci` count, for families that use them; None counts all."""

    variants: tuple[tuple[str, str], ...] = ()
    """Trainers' flags that turn this family into another: (flag, name of the other)."""

    sampled: bool = False
    """False while the service has no sampler for it: such a job is refused when it is made."""

    @property
    def ignores(self) -> frozenset[str]:
        """Fields of `Prompt` that change nothing for this family."""
        ignored = set(IMAGE_INPUTS - self.requires - self.uses)
        if self.guidance_scale is None:
            ignored.add("guidance_scale")
        if self.flow_shift is None:
            ignored.add("discrete_flow_shift")
        if self.cfg == "never":
            ignored |= {"cfg_scale", "negative_prompt"}
        return frozenset(ignored)


WAN21_T2V = ArchitectureSpec(
    name="wan2.1-t2v",
    title="Wan2.1 text to video",
    hub_id="Wan-AI/Wan2.1-T2V-1.3B-Diffusers",
    size_multiple=16,
    frame_stride=4,
    fps=16,
    cfg="unless_one",
    cfg_scale=5.0,
    negative_prompt=WAN_NEGATIVE_PROMPT,
    sampled=True,
    files=WAN_FILES,
)

WAN21_I2V = replace(
    WAN21_T2V,
    name="wan2.1-i2v",
    title="Wan2.1 image to video",
    hub_id="Wan-AI/Wan2.1-I2V-14B-480P-Diffusers",
    requires=frozenset({"image_path"}),
    files=(*WAN_FILES, WAN_CLIP),
)

WAN21_FUN_CONTROL = replace(
    WAN21_T2V,
    name="wan2.1-fun-control",
    title="Wan2.1-Fun-Control, video to video",
    hub_id="IRMChen/Wan2.1-Fun-1.3B-Control-Diffusers",
    requires=frozenset({"control_video_path"}),
    uses=frozenset({"image_path"}),
    files=(*WAN_FILES, WAN_CLIP),
)

WAN22_T2V_A14B = replace(
    WAN21_T2V,
    name="wan2.2-t2v-a14b",
    title="Wan2.2 text to video, two experts",
    hub_id="Wan-AI/Wan2.2-T2V-A14B-Diffusers",
    cfg_scale=3.0,
    high_noise_cfg_scale=4.0,
    files=(
        ModelFile("dit", "transformer_2", ("wan-transformer",)),
        ModelFile("dit_high_noise", "transformer", ("wan-transformer",)),
        *WAN_FILES[1:],
    ),
)

FRAMEPACK = ArchitectureSpec(
    name="framepack",
    title="FramePack image to video",
    hub_id="lllyasviel/FramePackI2V_HY",
    size_multiple=16,
    frame_stride=4,
    fps=30,
    cfg="with_scale",
    guidance_scale=10.0,
    flow_shift=None,
    requires=frozenset({"image_path"}),
    sections=True,
    variants=(("one_frame", "framepack-one-frame"),),
    sampled=True,
    files=FRAMEPACK_FILES,
)

FRAMEPACK_ONE_FRAME = ArchitectureSpec(
    name="framepack-one-frame",
    title="FramePack, one picture from others",
    hub_id=FRAMEPACK.hub_id,
    size_multiple=16,
    frame_stride=4,
    fps=30,
    cfg="with_scale",
    guidance_scale=10.0,
    flow_shift=None,
    requires=frozenset({"image_path"}),
    uses=frozenset({"control_image_path", "one_frame"}),
    stills=True,
    sampled=True,
    files=FRAMEPACK_FILES,
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
    uses=frozenset({"control_image_path"}),
    stills=True,
    control_images=1,
    sampled=True,
    files=FLUX_FILES,
)

HUNYUAN_VIDEO = ArchitectureSpec(
    name="hunyuan-video",
    title="HunyuanVideo text to video",
    hub_id="hunyuanvideo-community/HunyuanVideo",
    size_multiple=16,
    frame_stride=4,
    fps=24,
    cfg="with_negative",
    guidance_scale=6.0,
    sampled=True,
    files=HUNYUAN_FILES,
)

HUNYUAN_VIDEO_I2V = ArchitectureSpec(
    name="hunyuan-video-i2v",
    title="HunyuanVideo image to video",
    hub_id="hunyuanvideo-community/HunyuanVideo-I2V",
    size_multiple=16,
    frame_stride=4,
    fps=24,
    cfg="with_negative",
    guidance_scale=6.0,
    requires=frozenset({"image_path"}),
    sampled=True,
    files=HUNYUAN_FILES,
)

SKYREELS_V1_T2V = ArchitectureSpec(
    name="skyreels-v1-t2v",
    title="SkyReels V1 text to video",
    hub_id=HUNYUAN_VIDEO.hub_id,
    transformer_hub_id="Skywork/SkyReels-V1-Hunyuan-T2V",
    size_multiple=16,
    frame_stride=4,
    fps=24,
    cfg="with_negative",
    cfg_scale=6.0,
    guidance_scale=1.0,
    sampled=True,
    files=HUNYUAN_FILES,
)

SKYREELS_V1_I2V = ArchitectureSpec(
    name="skyreels-v1-i2v",
    title="SkyReels V1 image to video",
    hub_id=HUNYUAN_VIDEO.hub_id,
    transformer_hub_id="Skywork/SkyReels-V1-Hunyuan-I2V",
    size_multiple=16,
    frame_stride=4,
    fps=24,
    cfg="with_negative",
    cfg_scale=6.0,
    guidance_scale=1.0,
    requires=frozenset({"image_path"}),
    sampled=True,
    files=HUNYUAN_FILES,
)

ARCHITECTURES: Mapping[str, ArchitectureSpec] = {
    spec.name: spec
    for spec in (
        HUNYUAN_VIDEO,
        HUNYUAN_VIDEO_I2V,
        SKYREELS_V1_T2V,
        SKYREELS_V1_I2V,
        FRAMEPACK,
        FRAMEPACK_ONE_FRAME,
        WAN21_T2V,
        WAN21_I2V,
        WAN21_FUN_CONTROL,
        WAN22_T2V_A14B,
        FLUX1_KONTEXT,
    )
}


def architecture(name: str) -> ArchitectureSpec:
    """The family called `name`.

    Raises:
        ArchitectureError: no such family.
    """
    try:
        return ARCHITECTURES[name]
    except KeyError:
        known = ", ".join(sorted(ARCHITECTURES))
        raise ArchitectureError(f"unknown architecture {name!r}; known: {known}") from None
