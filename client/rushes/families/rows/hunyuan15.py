"""HunyuanVideo 1.5. Defaults are those of musubi-tuner 0.3.4's hv_1_5_train_network.py."""

from __future__ import annotations

from dataclasses import replace

from rushes.families.spec import ArchitectureSpec, ModelFile

FILES = (
    ModelFile("dit", "transformer", ("hunyuan15-transformer",)),
    ModelFile("vae", "vae", ("hunyuan15-vae",)),
    ModelFile("text_encoder", "text_encoder", ("qwen2.5-vl",)),
    ModelFile("byt5", "text_encoder_2", ("t5",)),
    ModelFile("tokenizer1", "tokenizer"),
    ModelFile("tokenizer2", "tokenizer_2"),
)

HUNYUAN_VIDEO_15_T2V = ArchitectureSpec(
    name="hunyuan-video-1.5-t2v",
    title="HunyuanVideo 1.5 text to video",
    hub_id="hunyuanvideo-community/HunyuanVideo-1.5-Diffusers-480p_t2v",
    size_multiple=16,
    frame_stride=4,
    fps=24,
    cfg="unless_one",
    cfg_scale=6.0,
    sampled=True,
    files=FILES,
)

HUNYUAN_VIDEO_15_I2V = replace(
    HUNYUAN_VIDEO_15_T2V,
    name="hunyuan-video-1.5-i2v",
    title="HunyuanVideo 1.5 image to video",
    hub_id="hunyuanvideo-community/HunyuanVideo-1.5-Diffusers-480p_i2v",
    requires=frozenset({"image_path"}),
    files=(*FILES, ModelFile("image_encoder", "image_encoder", ("siglip",))),
)

FAMILIES = (HUNYUAN_VIDEO_15_T2V, HUNYUAN_VIDEO_15_I2V)
