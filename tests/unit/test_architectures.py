"""From what a prompt asks for to what the sampler uses: defaults, rounding, guidance, warnings."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from family_support import required
from rushes.errors import ArchitectureError, PromptError
from rushes.families.parameters import SampleParameters, resolve
from rushes.families.prompt_options import OPTION_OF_FIELD
from rushes.families.rows.wan import WAN21_T2V, WAN_NEGATIVE_PROMPT
from rushes.families.spec import IMAGE_INPUTS, ArchitectureSpec
from rushes.families.table import ARCHITECTURES, architecture
from rushes.wire.jobs import Prompt


def wan(**options: Any) -> SampleParameters:
    return resolve(Prompt(prompt="a cat", **options), WAN21_T2V)[0]


def warned(spec: ArchitectureSpec = WAN21_T2V, **options: Any) -> list[str]:
    return list(resolve(Prompt(prompt="a cat", **options), spec)[1])


def with_rule(rule: str) -> ArchitectureSpec:
    return dataclasses.replace(WAN21_T2V, cfg=rule, cfg_scale=1.0, negative_prompt=None)


def test_the_reference_samplers_defaults() -> None:
    assert wan() == SampleParameters(
        prompt="a cat",
        negative_prompt=WAN_NEGATIVE_PROMPT,
        width=256,
        height=256,
        frame_count=1,
        fps=16,
        seed=0,
        sample_steps=20,
        cfg_scale=5.0,
        guidance_scale=None,
        discrete_flow_shift=14.5,
        lora_multiplier=1.0,
    )
    assert warned() == []


def test_what_a_prompt_asks_for_is_used() -> None:
    found = wan(width=480, height=832, frame_count=81, seed=7, sample_steps=3, cfg_scale=2.0, discrete_flow_shift=3.0)
    assert (found.width, found.height, found.frame_count, found.seed) == (480, 832, 81, 7)
    assert (found.sample_steps, found.cfg_scale, found.discrete_flow_shift) == (3, 2.0, 3.0)
    assert wan(lora_multiplier=0.0).lora_multiplier == 0.0


@pytest.mark.parametrize(("asked", "made"), [(16, 16), (31, 16), (479, 464), (480, 480)])
def test_sizes_are_rounded_down_to_what_the_model_can_make(asked: int, made: int) -> None:
    assert wan(width=asked).width == wan(height=asked).height == made
    assert warned(width=asked) == (
        [] if asked == made else [f"--w {asked} rounded down to {made} (wan2.1-t2v needs multiples of 16)"]
    )


@pytest.mark.parametrize(("asked", "made"), [(1, 1), (4, 1), (5, 5), (80, 77), (81, 81)])
def test_frame_counts_are_rounded_down_to_a_stride_and_one(asked: int, made: int) -> None:
    assert wan(frame_count=asked).frame_count == made
    assert bool(warned(frame_count=asked)) == (asked != made)


def test_a_size_below_the_smallest_is_an_error() -> None:
    with pytest.raises(PromptError, match=r"--h 15 is too small: wan2\.1-t2v needs at least 16 pixels"):
        wan(height=15)


@pytest.mark.parametrize(
    ("rule", "options", "scale", "negative"),
    [
        ("unless_one", {}, 1.0, None),
        ("unless_one", {"cfg_scale": 3.0}, 3.0, ""),
        ("unless_one", {"cfg_scale": 0.0, "negative_prompt": "ugly"}, 0.0, "ugly"),
        ("with_negative", {"cfg_scale": 3.0}, 1.0, None),
        ("with_negative", {"cfg_scale": 3.0, "negative_prompt": "ugly"}, 3.0, "ugly"),
        ("with_negative", {"negative_prompt": "ugly"}, 1.0, None),
        ("with_negative_above_one", {"cfg_scale": 3.0}, 1.0, None),
        ("with_negative_above_one", {"cfg_scale": 3.0, "negative_prompt": ""}, 3.0, ""),
        ("with_negative_above_one", {"cfg_scale": 0.5, "negative_prompt": "ugly"}, 1.0, None),
        ("with_scale", {"cfg_scale": 3.0}, 3.0, ""),
        ("with_scale", {"negative_prompt": "ugly"}, 1.0, None),
    ],
)
def test_guidance_runs_when_the_reference_would_run_it(
    rule: str, options: dict[str, Any], scale: float, negative: str | None
) -> None:
    found = resolve(Prompt(prompt="a cat", **options), with_rule(rule))[0]
    assert (found.cfg_scale, found.negative_prompt, found.use_cfg) == (scale, negative, negative is not None)


def test_wan_always_has_a_negative_prompt_of_its_own_unless_guidance_is_off() -> None:
    assert wan(negative_prompt="ugly").negative_prompt == "ugly"
    assert wan(negative_prompt="").negative_prompt == ""
    assert wan(cfg_scale=1.0).negative_prompt is None


def test_a_negative_prompt_that_changes_nothing_is_a_warning() -> None:
    assert warned(cfg_scale=1.0, negative_prompt="ugly") == ["--n is not used: classifier-free guidance is off (--l 1)"]


def test_ignored_options_are_warnings_and_not_used() -> None:
    assert warned(guidance_scale=6.0, image_path="/a.png") == [
        "--g is ignored by wan2.1-t2v",
        "--i is ignored by wan2.1-t2v",
    ]
    found = wan(guidance_scale=6.0, image_path="/a.png", control_image_path=("/b.png",))
    assert (found.guidance_scale, found.image_path, found.control_image_path) == (None, None, ())


@pytest.mark.parametrize("spec", ARCHITECTURES.values(), ids=lambda spec: spec.name)
def test_an_input_that_a_family_needs_and_lacks_is_named_as_its_option(spec: ArchitectureSpec) -> None:
    for field in spec.requires:
        given = {name: value for name, value in required(spec).items() if name != field}
        with pytest.raises(ArchitectureError, match=f"{spec.name} needs {OPTION_OF_FIELD[field]}"):
            resolve(Prompt(prompt="a cat", **given), spec)


@pytest.mark.parametrize("spec", ARCHITECTURES.values(), ids=lambda spec: spec.name)
def test_every_family_is_whole(spec: ArchitectureSpec) -> None:
    assert architecture(spec.name) is spec
    assert spec.requires | spec.uses <= IMAGE_INPUTS
    assert spec.requires.isdisjoint(spec.uses)
    resolve(Prompt(prompt="x", **required(spec)), spec)


def test_an_unknown_family_is_told_the_known_ones() -> None:
    with pytest.raises(ArchitectureError, match=r"unknown architecture 'wan'; known: .*wan2.1-t2v"):
        architecture("wan")
