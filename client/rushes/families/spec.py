"""What every family's facts consist of, and what families share.

This is the light half of a family: a trainer's environment reads it without torch. How a family is loaded and sampled
lies in its room of `rushes_service/models/`. Defaults follow musubi-tuner 0.3.4's in-training sampler.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

DEFAULT_SIZE = 256
"""Width and height in pixels when a prompt gives none: small, for quick training samples."""

DEFAULT_STEPS = 20
DEFAULT_FLOW_SHIFT = 14.5
"""The reference sampler's shift for every family, whatever the model was published with."""

CfgRule = Literal[
    "unless_one",
    "above_one",
    "by_guidance",
    "by_guidance_unless_one",
    "with_negative",
    "with_negative_above_one",
    "with_scale",
    "never",
    "by_pipeline",
]
"""When classifier-free guidance runs: always unless `--l 1`; with `--l` above 1; always, at the scale that `--g` gives;
at that scale unless it is 1; only with both `--n` and `--l` other than 1; only with both `--n` and `--l` above 1; with
`--l` other than 1, the negative prompt being empty unless given; not at all; as the pipeline has it."""

IMAGE_INPUTS = frozenset({"image_path", "end_image_path", "control_video_path", "control_image_path", "one_frame"})

OWN = ("width", "height", "frame_count", "sample_steps", "guidance_scale", "cfg_scale")
"""Fields of `Prompt` whose defaults some models bring with them."""


NOTHING: Mapping[str, Any] = {}


@dataclass(frozen=True)
class ModelFile:
    """One part of a model that a trainer's flag names as a single file.

    `flag` is a field of `ModelSpec`, `component` the part's name in diffusers' layout, `kinds` the names of the file
    kinds that it accepts (`rushes_service.models.rooms.FileKind`). A part without kinds is a directory (a tokenizer).
    `hub` is True where the trainer's flag also takes a hub id.
    """

    flag: str
    component: str
    kinds: tuple[str, ...] = ()
    hub: bool = False


@dataclass(frozen=True)
class ArchitectureSpec:
    """One model family.

    Sizes are floored to `size_multiple` pixels (see `size_floor`) and frame counts to `frame_stride * k + 1`. `fps` is
    the rate the model was trained at. `uses` and `requires` name fields of `Prompt` beyond those every family has.
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

    weights: tuple[str, ...] = ()
    """Flags of files with weights of whatever pipeline it is; a directory has the configuration and what they lack."""

    requires: frozenset[str] = frozenset()
    uses: frozenset[str] = frozenset()
    fewest_frames: int = 1
    """Frames of a clip that is asked for without `--f`; a shorter one is an error."""

    latent_frames: int | None = None
    """Set where `--f` counts latent frames, to its default: `frame_stride * (f - 1) + 1` pictures are made."""

    sections: bool = False
    """Clips are made of whole sections of the model's `latent_window_size` latent frames, at least one."""

    image_only: bool = False
    """Makes single pictures, whatever `--f` says."""

    size: int = DEFAULT_SIZE
    """Width and height of a sample whose prompt gives none."""

    sized_by_image: bool = False
    """A sample with `--i` has the size that the model brings this picture to, whatever `--w` and `--h` say."""

    steps: int = DEFAULT_STEPS
    seed: int | None = None
    """What a prompt without a seed is sampled with; None draws one."""

    layers: int | None = None
    """Set for pictures of layers, of which `--f` makes that many and one more, to the default of `--f`."""

    control_images: int | None = None
    """How many `--ci` count, for families that use them; None counts all."""

    dynamic_shift: bool = False
    """Without a flow shift the schedule grows with the picture; prompts ask for it with `dynamic_shift`."""

    size_floor: int | None = None
    """Sizes are floored to this, then rounded up to `size_multiple`; None floors them to `size_multiple`."""

    versions: tuple[str, ...] = ()
    """What `--model_version` may be; without it, the first."""

    version_flag: str = "model_version"
    """The trainers' flag that says which version it is."""

    by_version: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: NOTHING, hash=False)
    """Fields of this class that are others for some versions."""

    not_yet: Mapping[str, str] = field(default_factory=lambda: NOTHING, hash=False)
    """Versions that trainers know and the service cannot sample, and why."""

    distilled: frozenset[str] = frozenset()
    """Versions that are sampled without any guidance."""

    own_defaults: bool = False
    """What a prompt leaves out of `OWN` is the model's own, and known when it is loaded."""

    variants: tuple[tuple[str, str], ...] = ()
    """Trainers' flags that turn this family into another: (flag, name of the other)."""

    stand_ins: tuple[tuple[str, str, str], ...] = ()
    """Trainers' flags that give what is sampled instead of what is trained: (flag, the flag that it stands in for,
    version that the model then is)."""

    drafts: bool = False
    """diffusers' FirstBlockCache knows the transformer's blocks. Of a family whose model says what its transformer is,
    only the worker knows."""

    sampled: bool = False
    """False while the service has no sampler for it: such a job is refused when it is made."""

    @property
    def ignores(self) -> frozenset[str]:
        """Fields of `Prompt` that change nothing for this family."""
        ignored = set(IMAGE_INPUTS - self.requires - self.uses)
        if self.guidance_scale is None:
            ignored.add("guidance_scale")
        if self.flow_shift is None and not self.dynamic_shift:
            ignored.add("discrete_flow_shift")
        if self.cfg in ("by_guidance", "by_guidance_unless_one"):
            ignored.add("cfg_scale")
        if self.cfg == "never":
            ignored |= {"cfg_scale", "negative_prompt"}
        return frozenset(ignored)
