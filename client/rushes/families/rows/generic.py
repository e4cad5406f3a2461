"""Any pipeline of diffusers. Defaults are the pipeline's own; what it takes is read off its signature by the worker."""

from __future__ import annotations

from rushes.families.spec import ArchitectureSpec

DIFFUSERS = ArchitectureSpec(
    name="diffusers",
    title="pictures and clips by any pipeline of diffusers",
    hub_id="stabilityai/stable-diffusion-xl-base-1.0",
    size_multiple=8,
    frame_stride=1,
    fps=24,
    cfg="by_pipeline",
    guidance_scale=1.0,
    flow_shift=None,
    uses=frozenset({"image_path", "end_image_path"}),
    own_defaults=True,
    drafts=True,
    weights=("dit", "vae"),
    sampled=True,
)

FAMILIES = (DIFFUSERS,)
