"""From a prompt as asked for to what the sampler really uses: defaults, rounding, guidance, warnings."""

from __future__ import annotations

from dataclasses import replace

from rushes.errors import ArchitectureError, PromptError
from rushes.families.one_frame import parse_one_frame, place_frames
from rushes.families.prompt_options import OPTION_OF_FIELD
from rushes.families.spec import IMAGE_INPUTS, OWN, ArchitectureSpec
from rushes.families.table import ARCHITECTURES
from rushes.wire.base import FrozenModel
from rushes.wire.jobs import Prompt
from rushes.wire.models import ModelSpec


class SampleParameters(FrozenModel):
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
    layers: int | None = None
    """Pictures with transparency that make up the sample, below each other in one file; None for an opaque one."""

    left_to_model: tuple[str, ...] = ()
    """Fields that the prompt leaves out and the model has defaults for; until it is loaded they hold others."""

    @property
    def use_cfg(self) -> bool:
        """True when each step also runs the negative prompt."""
        return self.negative_prompt is not None


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
    check_version(model, spec)
    spec = of_version(spec, model)
    warnings = [
        f"{OPTION_OF_FIELD[field]} is ignored by {spec.name}"
        for field in OPTION_OF_FIELD
        if field in spec.ignores and getattr(prompt, field) not in (None, ())
    ]
    width, height = sizes(prompt, spec, warnings)
    frames = count_frames(prompt.frame_count, spec, model, warnings)
    cfg_scale, negative = classifier_free_guidance(prompt, spec)
    if negative is None and prompt.negative_prompt and "negative_prompt" not in spec.ignores:
        scale = "--g 1" if spec.cfg == "by_guidance_unless_one" else f"--l {cfg_scale:g}"
        warnings.append(f"--n is not used: classifier-free guidance is off ({scale})")
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
        sample_steps=prompt.sample_steps or spec.steps,
        cfg_scale=cfg_scale,
        guidance_scale=default(prompt.guidance_scale, spec.guidance_scale),
        discrete_flow_shift=flow_shift(prompt, spec, warnings),
        lora_multiplier=1.0 if prompt.lora_multiplier is None else prompt.lora_multiplier,
        high_noise_cfg_scale=high_noise_cfg_scale(prompt, spec, model),
        layers=None if spec.layers is None else (prompt.frame_count or spec.layers) + 1,
        left_to_model=tuple(name for name in OWN if getattr(prompt, name) is None) if spec.own_defaults else (),
        **kept,
    )
    return parameters, tuple(warnings)


def of_version(spec: ArchitectureSpec, model: ModelSpec | None) -> ArchitectureSpec:
    """`spec` as it is for the version of the model."""
    version = model.model_version if model else None
    if version in spec.distilled:
        spec = replace(spec, cfg="never", guidance_scale=None)
    return replace(spec, **spec.by_version.get(version or "", {}))


def check_required(prompt: Prompt, spec: ArchitectureSpec) -> None:
    """Raise `ArchitectureError` if `prompt` lacks an input that `spec` needs, `PromptError` if one is malformed."""
    missing = [
        OPTION_OF_FIELD[field] for field in OPTION_OF_FIELD if field in spec.requires and not getattr(prompt, field)
    ]
    if missing:
        raise ArchitectureError(f"{spec.name} needs {' and '.join(missing)}: add it to the prompt line")
    if "one_frame" in spec.requires:
        place_frames(prompt.one_frame, len(prompt.control_image_path))
    elif "one_frame" in spec.uses:
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


def check_version(model: ModelSpec | None, spec: ArchitectureSpec) -> None:
    """Raise `ArchitectureError` for a `--model_version` that `spec` has not, naming the family that has it."""
    version = model.model_version if model else None
    if version is None or version in spec.versions:
        return
    for family in ARCHITECTURES.values():
        if version in family.not_yet:
            raise ArchitectureError(f"--{family.version_flag} {version}: {family.not_yet[version]}")
    other = next((name for name, family in ARCHITECTURES.items() if version in family.versions), None)
    known = f"{spec.name} knows {', '.join(spec.versions)}" if spec.versions else f"{spec.name} has no versions"
    hint = f"; it is one of {other}: say --architecture {other}" if other else ""
    raise ArchitectureError(f"--{spec.version_flag} {version}: {known}{hint}")


def flow_shift(prompt: Prompt, spec: ArchitectureSpec, warnings: list[str]) -> float | None:
    """The shift of the schedule; None if `spec` has none, or if it is to grow with the picture."""
    if spec.dynamic_shift and (prompt.dynamic_shift or spec.flow_shift is None):
        return None if prompt.dynamic_shift else prompt.discrete_flow_shift
    if prompt.dynamic_shift:
        warnings.append(f"dynamic_shift is ignored by {spec.name}")
    return default(prompt.discrete_flow_shift, spec.flow_shift)


def high_noise_cfg_scale(prompt: Prompt, spec: ArchitectureSpec, model: ModelSpec | None) -> float | None:
    """CFG scale of the expert for much noise; None unless two experts sample."""
    if model is None or model.experts != "both":
        return None
    return default(prompt.cfg_scale, spec.high_noise_cfg_scale)


def sizes(prompt: Prompt, spec: ArchitectureSpec, warnings: list[str]) -> tuple[int, int]:
    """Width and height in pixels; those of a family that goes by its start image are known when that is read."""
    if spec.sized_by_image and prompt.image_path:
        asked = {"--w": prompt.width, "--h": prompt.height}
        warnings += [f"{option} is ignored: --i gives the size" for option, size in asked.items() if size is not None]
        return spec.size, spec.size
    width, height = (
        round_size(asked or spec.size, option, spec, warnings)
        for asked, option in ((prompt.width, "--w"), (prompt.height, "--h"))
    )
    return width, height


def round_size(asked: int, option: str, spec: ArchitectureSpec, warnings: list[str]) -> int:
    """`asked` pixels rounded to the family's multiple; a change is noted in `warnings`."""
    least = spec.size_floor or spec.size_multiple
    size = -(-(asked // least * least) // spec.size_multiple) * spec.size_multiple
    if size == 0:
        raise PromptError(f"{option} {asked} is too small: {spec.name} needs at least {least} pixels")
    if size != asked:
        way = "up" if size > asked else "down"
        warnings.append(
            f"{option} {asked} rounded {way} to {size} ({spec.name} needs multiples of {spec.size_multiple})"
        )
    return size


def count_frames(asked: int | None, spec: ArchitectureSpec, model: ModelSpec | None, warnings: list[str]) -> int:
    """`asked` frames floored to what the family makes: stride * k + 1; a change is noted in `warnings`."""
    if spec.image_only:
        if asked not in (None, 1) and spec.layers is None:
            warnings.append(f"--f is ignored by {spec.name}, which makes single pictures")
        return 1
    if spec.latent_frames is not None:
        return spec.frame_stride * ((asked or spec.latent_frames) - 1) + 1
    stride, shortest = spec.frame_stride, spec.fewest_frames
    needs = f"{spec.name} needs {shortest} frames at least"
    if spec.sections:
        stride *= (model or ModelSpec(architecture=spec.name)).latent_window_size
        shortest = stride + 1
        needs = f"{spec.name} makes sections of {stride} frames and the start image, that is {shortest} frames at least"
    asked = shortest if asked is None else asked
    if asked < shortest:
        raise PromptError(f"--f {asked} is too short: {needs}")
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
    if spec.cfg == "by_pipeline":
        return scale, negative
    if spec.cfg == "by_guidance":
        return 1.0, spec.negative_prompt or "" if negative is None else negative
    if spec.cfg == "by_guidance_unless_one":
        guidance = default(prompt.guidance_scale, spec.guidance_scale)
        return 1.0, None if guidance == 1.0 else negative or spec.negative_prompt or ""
    if spec.cfg in ("unless_one", "above_one"):
        negative = spec.negative_prompt or "" if negative is None else negative
    elif spec.cfg == "with_scale":
        negative = negative or ""
    off = scale <= 1.0 if spec.cfg in ("above_one", "with_negative_above_one") else scale == 1.0
    if off or negative is None or spec.cfg == "never":
        return 1.0, None
    return scale, negative


def default(asked: float | None, fallback: float | None) -> float | None:
    """`asked`, or the family's own value; None for a family that has no such parameter."""
    if fallback is None:
        return None
    return fallback if asked is None else asked
