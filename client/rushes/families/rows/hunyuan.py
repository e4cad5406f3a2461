"""HunyuanVideo's families and SkyReels V1's, which share everything but the transformer."""

from __future__ import annotations

from rushes.families.spec import ArchitectureSpec, ModelFile

LLAMA_AND_CLIP = (
    ModelFile("vae", "vae", ("hunyuan-vae",)),
    ModelFile("text_encoder1", "text_encoder", ("llama", "llava")),
    ModelFile("text_encoder2", "text_encoder_2", ("clip-text",)),
    ModelFile("tokenizer1", "tokenizer"),
    ModelFile("tokenizer2", "tokenizer_2"),
)
HUNYUAN_FILES = (ModelFile("dit", "transformer", ("hunyuan-transformer",)), *LLAMA_AND_CLIP)

HUNYUAN_VIDEO = ArchitectureSpec(
    name="hunyuan-video",
    title="HunyuanVideo text to video",
    hub_id="hunyuanvideo-community/HunyuanVideo",
    size_multiple=16,
    frame_stride=4,
    fps=24,
    cfg="with_negative",
    guidance_scale=6.0,
    drafts=True,
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
    drafts=True,
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
    drafts=True,
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
    drafts=True,
    sampled=True,
    files=HUNYUAN_FILES,
)

FAMILIES = (HUNYUAN_VIDEO, HUNYUAN_VIDEO_I2V, SKYREELS_V1_T2V, SKYREELS_V1_I2V)
