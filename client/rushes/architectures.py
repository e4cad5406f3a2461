"""The model families as facts: defaults, rounding, required and ignored options.

This is the light half of a family, which a trainer's environment can read without torch; how a
family is loaded and sampled lives in `rushes_service/architectures/`. Adding a family is one row here
and one file there. Defaults follow musubi-tuner 0.3.4's in-training sampler.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from rushes.errors import ArchitectureError, PromptError
from rushes.jobs import Frozen, ModelSpec, Prompt
from rushes.one_frame import parse_one_frame
from rushes.prompt_lines import OPTION_OF_FIELD

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
)

WAN21_I2V = replace(
    WAN21_T2V,
    name="wan2.1-i2v",
    title="Wan2.1 image to video",
    hub_id="Wan-AI/Wan2.1-I2V-14B-480P-Diffusers",
    requires=frozenset({"image_path"}),
)

WAN21_FUN_CONTROL = replace(
    WAN21_T2V,
    name="wan2.1-fun-control",
    title="Wan2.1-Fun-Control, video to video",
    hub_id="IRMChen/Wan2.1-Fun-1.3B-Control-Diffusers",
    requires=frozenset({"control_video_path"}),
    uses=frozenset({"image_path"}),
)

WAN22_T2V_A14B = replace(
    WAN21_T2V,
    name="wan2.2-t2v-a14b",
    title="Wan2.2 text to video, two experts",
    hub_id="Wan-AI/Wan2.2-T2V-A14B-Diffusers",
    cfg_scale=3.0,
    high_noise_cfg_scale=4.0,
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


class SampleParameters(Frozen):
    """What the sampler really uses, after defaults and rounding; written whole into the receipt.

    Sizes in pixels, `fps` in frames per second. `guidance_scale` and `discrete_flow_shift` are None for a family
    that has none; `cfg_scale` is 1.0 and `negative_prompt` None when classifier-free guidance is off.
    """

    prompt: str
    negative_prompt: str | None
    width: int
    height: int
    frame_count: int
    fps: int
    seed: int
    sample_steps: int
    cfg_scale: float
    guidance_scale: float | None
    discrete_flow_shift: float | None
    lora_multiplier: float
    high_noise_cfg_scale: float | None = None
    """While two experts sample: of the one for much noise; `cfg_scale` is the other's."""

    image_path: str | None = None
    end_image_path: str | None = None
    control_video_path: str | None = None
    control_image_path: tuple[str, ...] = ()
    one_frame: str | None = None

    @property
    def use_cfg(self) -> bool:
        """True when each step also runs the negative prompt."""
        return self.negative_prompt is not None


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


def resolve(
    prompt: Prompt, spec: ArchitectureSpec, model: ModelSpec | None = None
) -> tuple[SampleParameters, tuple[str, ...]]:
    """What `spec`'s sampler makes of `prompt`, and a warning for each thing it changes or ignores.

    `model` is the base model, for families whose frame counts depend on it; by default the one they published.
    A prompt without a seed is resolved with seed 0: seeds are drawn when a job is made, not here.

    Raises:
        PromptError: the prompt cannot be sampled by this family.
        ArchitectureError: an input the family needs is absent.
    """
    check_required(prompt, spec)
    check_experts(model, spec)
    warnings = [
        f"{OPTION_OF_FIELD[field]} is ignored by {spec.name}"
        for field in OPTION_OF_FIELD
        if field in spec.ignores and getattr(prompt, field) not in (None, ())
    ]
    width = floor_size(prompt.width or DEFAULT_SIZE, "--w", spec, warnings)
    height = floor_size(prompt.height or DEFAULT_SIZE, "--h", spec, warnings)
    frames = count_frames(prompt.frame_count, spec, model, warnings)
    cfg_scale, negative = classifier_free_guidance(prompt, spec)
    if negative is None and prompt.negative_prompt and "negative_prompt" not in spec.ignores:
        warnings.append(f"--n is not used: classifier-free guidance is off (--l {cfg_scale:g})")
    kept = {name: getattr(prompt, name) for name in IMAGE_INPUTS - spec.ignores}
    kept |= count_control_images(prompt, spec, warnings)
    parameters = SampleParameters(
        prompt=prompt.prompt,
        negative_prompt=negative,
        width=width,
        height=height,
        frame_count=frames,
        fps=spec.fps,
        seed=prompt.seed or 0,
        sample_steps=prompt.sample_steps or DEFAULT_STEPS,
        cfg_scale=cfg_scale,
        guidance_scale=default(prompt.guidance_scale, spec.guidance_scale),
        discrete_flow_shift=default(prompt.discrete_flow_shift, spec.flow_shift),
        lora_multiplier=1.0 if prompt.lora_multiplier is None else prompt.lora_multiplier,
        high_noise_cfg_scale=high_noise_cfg_scale(prompt, spec, model),
        **kept,
    )
    return parameters, tuple(warnings)


def check_required(prompt: Prompt, spec: ArchitectureSpec) -> None:
    """Raise `ArchitectureError` if `prompt` lacks an input that `spec` needs, `PromptError` if one is malformed."""
    missing = [
        OPTION_OF_FIELD[field] for field in OPTION_OF_FIELD if field in spec.requires and not getattr(prompt, field)
    ]
    if missing:
        raise ArchitectureError(f"{spec.name} needs {' and '.join(missing)}: add it to the prompt line")
    if "one_frame" in spec.uses:
        parse_one_frame(prompt.one_frame)


def check_experts(model: ModelSpec | None, spec: ArchitectureSpec) -> None:
    """Raise `ArchitectureError` for a choice of experts that `spec` has not, or that contradicts itself."""
    if model is None:
        return
    if spec.high_noise_cfg_scale is None and (model.experts != "low" or model.lora_expert):
        raise ArchitectureError(f"{spec.name} has one transformer: leave --rushes_experts and --rushes_lora_expert out")
    if model.lora_expert and model.experts != "both":
        raise ArchitectureError(
            f"--rushes_lora_expert {model.lora_expert} needs --rushes_experts both: an expert alone gets every LoRA"
        )


def high_noise_cfg_scale(prompt: Prompt, spec: ArchitectureSpec, model: ModelSpec | None) -> float | None:
    """CFG scale of the expert for much noise; None unless two experts sample."""
    if model is None or model.experts != "both":
        return None
    return default(prompt.cfg_scale, spec.high_noise_cfg_scale)


def floor_size(asked: int, option: str, spec: ArchitectureSpec, warnings: list[str]) -> int:
    """`asked` pixels floored to the family's multiple; a change is noted in `warnings`."""
    size = asked // spec.size_multiple * spec.size_multiple
    if size == 0:
        raise PromptError(f"{option} {asked} is too small: {spec.name} needs at least {spec.size_multiple} pixels")
    if size != asked:
        warnings.append(
            f"{option} {asked} rounded down to {size} ({spec.name} needs multiples of {spec.size_multiple})"
        )
    return size


def count_frames(asked: int | None, spec: ArchitectureSpec, model: ModelSpec | None, warnings: list[str]) -> int:
    """`asked` frames floored to what the family makes: stride * k + 1; a change is noted in `warnings`."""
    if spec.stills:
        if asked not in (None, 1):
            warnings.append(f"--f is ignored by {spec.name}, which makes single pictures")
        return 1
    stride, shortest = spec.frame_stride, DEFAULT_FRAMES
    if spec.sections:
        stride *= (model or ModelSpec(architecture=spec.name)).latent_window_size
        shortest = stride + 1
    asked = shortest if asked is None else asked
    if asked < shortest:
        raise PromptError(
            f"--f {asked} is too short: {spec.name} makes sections of {stride} frames and the start image, "
            f"that is {shortest} frames at least"
        )
    frames = (asked - 1) // stride * stride + 1
    if frames != asked:
        warnings.append(f"--f {asked} rounded down to {frames} ({spec.name} makes {stride}k+1 frames)")
    return frames


def count_control_images(prompt: Prompt, spec: ArchitectureSpec, warnings: list[str]) -> dict[str, tuple[str, ...]]:
    """The control images that count, as fields to keep; those that do not are noted in `warnings`."""
    if spec.control_images is None:
        return {}
    counted = prompt.control_image_path[: spec.control_images]
    if left := prompt.control_image_path[spec.control_images :]:
        warnings.append(f"--ci: {spec.name} uses the first {spec.control_images}; left out: {', '.join(left)}")
    return {"control_image_path": counted}


def classifier_free_guidance(prompt: Prompt, spec: ArchitectureSpec) -> tuple[float, str | None]:
    """CFG scale and negative prompt; (1.0, None) when the reference would not run CFG."""
    scale = spec.cfg_scale if prompt.cfg_scale is None else prompt.cfg_scale
    negative = prompt.negative_prompt
    if spec.cfg == "unless_one":
        negative = spec.negative_prompt or "" if negative is None else negative
    elif spec.cfg == "with_scale":
        negative = negative or ""
    if scale == 1.0 or negative is None or spec.cfg == "never":
        return 1.0, None
    return scale, negative


def default(asked: float | None, fallback: float | None) -> float | None:
    """`asked`, or the family's own value; None for a family that has no such parameter."""
    if fallback is None:
        return None
    return fallback if asked is None else asked
