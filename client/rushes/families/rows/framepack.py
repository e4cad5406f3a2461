"""FramePack's families: HunyuanVideo's encoders and VAE, a transformer of its own, SigLIP for the start image."""

from __future__ import annotations

from rushes.families.rows.hunyuan import LLAMA_AND_CLIP
from rushes.families.spec import ArchitectureSpec, ModelFile

FRAMEPACK_FILES = (
    ModelFile("dit", "transformer", ("framepack-transformer",)),
    *LLAMA_AND_CLIP,
    ModelFile("image_encoder", "image_encoder", ("siglip",)),
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
    drafts=True,
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
    image_only=True,
    drafts=True,
    sampled=True,
    files=FRAMEPACK_FILES,
)

FAMILIES = (FRAMEPACK, FRAMEPACK_ONE_FRAME)
