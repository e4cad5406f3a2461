"""Wan's families. Defaults are those of musubi-tuner 0.3.4's wan_train_network.py."""

from __future__ import annotations

from dataclasses import replace

from rushes.families.spec import ArchitectureSpec, ModelFile

WAN_NEGATIVE_PROMPT = (
    "色调艳丽，过曝，静态，细节模糊不清，字幕，风格，作品，画作，画面，静止，整体发灰，最差质量，低质量，"  # noqa: RUF001
    "JPEG压缩残留，丑陋的，残缺的，多余的手指，画得不好的手部，画得不好的脸部，畸形的，毁容的，形态畸形的肢体，手指融合，"  # noqa: RUF001
    "静止不动的画面，杂乱的背景，三条腿，背景人很多，倒着走"  # noqa: RUF001
)
"""Published with Wan2.1; used whenever a prompt has no `--n` of its own."""

WAN_FILES = (
    ModelFile("dit", "transformer", ("wan-transformer",)),
    ModelFile("vae", "vae", ("wan-vae",)),
    ModelFile("t5", "text_encoder", ("umt5",)),
    ModelFile("tokenizer1", "tokenizer"),
)
WAN_CLIP = ModelFile("clip", "image_encoder", ("clip-vision",))
ONE_FRAME = (("one_frame", "wan-one-frame"),)
"""The trainer's flag that makes one picture of an image-to-video model."""

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
    drafts=True,
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
    variants=ONE_FRAME,
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

WAN22_I2V_A14B = replace(
    WAN22_T2V_A14B,
    name="wan2.2-i2v-a14b",
    title="Wan2.2 image to video, two experts",
    hub_id="Wan-AI/Wan2.2-I2V-A14B-Diffusers",
    cfg_scale=3.5,
    high_noise_cfg_scale=3.5,
    requires=frozenset({"image_path"}),
)

WAN22_TI2V_5B = replace(
    WAN21_T2V,
    name="wan2.2-ti2v-5b",
    title="Wan2.2 text or image to video, 5B",
    hub_id="Wan-AI/Wan2.2-TI2V-5B-Diffusers",
    size_multiple=32,
    fps=24,
    flow_shift=5.0,
    uses=frozenset({"image_path"}),
    files=(WAN_FILES[0], ModelFile("vae", "vae", ("wan22-vae",)), *WAN_FILES[2:]),
)

WAN21_FLF2V = replace(
    WAN21_I2V,
    name="wan2.1-flf2v",
    title="Wan2.1 first and last frame to video",
    hub_id="Wan-AI/Wan2.1-FLF2V-14B-720P-diffusers",
    negative_prompt=f"镜头切换，{WAN_NEGATIVE_PROMPT}",  # noqa: RUF001
    requires=frozenset({"image_path", "end_image_path"}),
    fewest_frames=5,
    variants=ONE_FRAME,
)

WAN_ONE_FRAME = replace(
    WAN21_I2V,
    name="wan-one-frame",
    title="Wan2.1, one picture from others",
    requires=frozenset({"image_path", "control_image_path", "one_frame"}),
    uses=frozenset({"end_image_path"}),
    image_only=True,
    variants=(),
)

FAMILIES = (
    WAN21_T2V,
    WAN21_I2V,
    WAN21_FUN_CONTROL,
    WAN21_FLF2V,
    WAN_ONE_FRAME,
    WAN22_T2V_A14B,
    WAN22_I2V_A14B,
    WAN22_TI2V_5B,
)
