"""What `--of` says, and FramePack's other options as the client sees them."""

from __future__ import annotations

import argparse
import re

import pytest

from rushes.errors import ArchitectureError, PromptError
from rushes.families.one_frame import OneFrame, Places, parse_one_frame, place_frames
from rushes.families.parameters import resolve
from rushes.families.rows.framepack import FRAMEPACK, FRAMEPACK_ONE_FRAME
from rushes.families.rows.wan import WAN_ONE_FRAME
from rushes.training.flags import add_sampling_arguments, model_from_args, vae_from_args
from rushes.wire.jobs import Prompt
from rushes.wire.models import ModelSpec


@pytest.mark.parametrize(
    ("text", "options"),
    [
        (None, OneFrame()),
        ("", OneFrame()),
        ("target_index=5,control_index=2", OneFrame(5, (2,))),
        (" no_2x , no_4x,no_post , target_index = 0 ", OneFrame(0, (), True, True, True)),
        ("control_index=0;10", OneFrame(None, (0, 10))),
    ],
)
def test_options_of_a_picture_are_read(text: str | None, options: OneFrame) -> None:
    assert parse_one_frame(text) == options


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("no_3x", "'no_3x' is no option; known: target_index=N"),
        ("target_index=-1", "target_index=-1 must be a whole number"),
        ("target_index=", "target_index= must be a whole number"),
        ("control_index=1;;2", "control_index= must be a whole number"),
        ("no_2x=1", "'no_2x=1' is no option"),
        ("target_index=1,target_index=2", "target_index is given twice"),
        ("target_index=9999999", "0 to 999999"),
    ],
)
def test_what_the_reference_drops_without_a_word_is_an_error(text: str, named: str) -> None:
    with pytest.raises(PromptError, match=f"--of: .*{named}"):
        resolve(Prompt(prompt="a cat", image_path="a.png", one_frame=text), FRAMEPACK_ONE_FRAME)


def test_single_pictures_have_one_frame_whatever_is_asked() -> None:
    parameters, warnings = resolve(Prompt(prompt="a cat", image_path="a.png", frame_count=37), FRAMEPACK_ONE_FRAME)
    assert parameters.frame_count == 1
    assert warnings == ("--f is ignored by framepack-one-frame, which makes single pictures",)


@pytest.mark.parametrize(("asked", "made"), [(None, 37), (37, 37), (72, 37), (73, 73), (110, 109)])
def test_clips_are_made_of_whole_sections(asked: int | None, made: int) -> None:
    parameters, warnings = resolve(Prompt(prompt="a cat", image_path="a.png", frame_count=asked), FRAMEPACK)
    assert parameters.frame_count == made
    assert bool(warnings) == (asked not in (None, made))


def test_the_window_of_the_model_sets_the_length_of_its_sections() -> None:
    model = ModelSpec(architecture="framepack", latent_window_size=2)
    assert resolve(Prompt(prompt="a", image_path="a.png", frame_count=20), FRAMEPACK, model)[0].frame_count == 17


def test_a_clip_shorter_than_one_section_is_an_error_that_says_what_is_long_enough() -> None:
    with pytest.raises(PromptError, match=r"--f 36 is too short: framepack makes sections of 36 frames .* 37 frames"):
        resolve(Prompt(prompt="a cat", image_path="a.png", frame_count=36), FRAMEPACK)


@pytest.mark.parametrize("spec", [FRAMEPACK, FRAMEPACK_ONE_FRAME])
def test_a_prompt_without_a_start_image_is_an_error(spec) -> None:
    with pytest.raises(ArchitectureError, match=f"{spec.name} needs --i"):
        resolve(Prompt(prompt="a cat"), spec)


@pytest.mark.parametrize("spec", [FRAMEPACK, FRAMEPACK_ONE_FRAME])
def test_the_reference_samplers_defaults(spec) -> None:
    found = resolve(Prompt(prompt="a cat", image_path="a.png"), spec)[0]
    assert (found.width, found.height, found.sample_steps, found.fps) == (256, 256, 20, 30)
    assert (found.guidance_scale, found.cfg_scale, found.negative_prompt) == (10.0, 1.0, None)
    assert found.discrete_flow_shift is None
    guided = resolve(Prompt(prompt="a cat", image_path="a.png", cfg_scale=3.0), spec)[0]
    assert (guided.cfg_scale, guided.negative_prompt) == (3.0, "")


def test_options_that_framepack_ignores_are_named() -> None:
    prompt = Prompt(
        prompt="a cat", image_path="a.png", end_image_path="b.png", discrete_flow_shift=3.0, negative_prompt="blurry"
    )
    warnings = resolve(prompt, FRAMEPACK)[1]
    assert [warning.split()[0] for warning in warnings] == ["--fs", "--ei", "--n"]


def given(*flags: str) -> dict[str, object]:
    parser = argparse.ArgumentParser()
    add_sampling_arguments(parser)
    return vars(parser.parse_args(flags))


def test_the_trainers_flags_say_which_framepack_it_is() -> None:
    assert model_from_args(given(), "framepack", "a/b") == ModelSpec(architecture="framepack", model="a/b")
    found = model_from_args(given("--f1", "--latent_window_size", "4"), "framepack", "a/b")
    assert found == ModelSpec(architecture="framepack", model="a/b", f1=True, latent_window_size=4)
    assert model_from_args(given("--one_frame"), "framepack", "a/b").architecture == "framepack-one-frame"
    assert model_from_args(given("--one_frame"), "wan2.1-t2v", "a/b").architecture == "wan2.1-t2v"
    assert vae_from_args(given("--bulk_decode")).bulk_decode


def test_f1_and_the_window_are_properties_of_the_model() -> None:
    models = [
        ModelSpec(architecture="framepack", f1=f1, latent_window_size=window) for f1 in (0, 1) for window in (9, 4)
    ]
    assert len({model.fingerprint for model in models}) == 4
    assert models[0].fingerprint == ModelSpec(architecture="framepack").fingerprint


def test_wans_frames_are_sorted_by_their_places() -> None:
    assert place_frames("target_index=5,control_index=0;9", 2) == Places((0, 5, 9), 1)
    assert place_frames("target_index=1,control_index=0", 1) == Places((0, 1), 1)


@pytest.mark.parametrize(
    ("text", "controls", "named"),
    [
        (None, 1, "needs both: target_index=N,control_index=N;N"),
        ("target_index=1", 1, "needs both"),
        ("control_index=1", 1, "needs both"),
        ("target_index=1,control_index=1", 1, "each index may be given once"),
        ("target_index=1,control_index=0;0", 2, "each index may be given once"),
        ("target_index=1024,control_index=0", 1, "index 1024 is too large; 1023 is the last"),
        ("target_index=1,control_index=0;2", 1, "places 2 control images, but --ci gives 1"),
    ],
)
def test_places_that_wan_cannot_use_are_named(text: str | None, controls: int, named: str) -> None:
    with pytest.raises(PromptError, match=re.escape(named)):
        place_frames(text, controls)


@pytest.mark.parametrize(
    ("text", "controls", "named"),
    [
        ("target_index=1,control_index=0", 3, "the last 2 of 3 are ignored"),
        ("target_index=1,control_index=9;0", 2, "not in ascending order"),
        ("target_index=1,control_index=0,no_2x", 1, "--of no_2x: of FramePack"),
    ],
)
def test_what_changes_nothing_for_wan_is_a_warning(text: str, controls: int, named: str) -> None:
    (warning,) = place_frames(text, controls).warnings
    assert named in warning


def test_a_prompt_of_wans_is_checked_before_it_is_submitted() -> None:
    inputs = {"image_path": "/a.png", "control_image_path": ("/a.png",)}
    with pytest.raises(PromptError, match="places 2 control images"):
        resolve(Prompt(prompt="x", one_frame="target_index=1,control_index=0;2", **inputs), WAN_ONE_FRAME)


@pytest.mark.parametrize(
    ("argv", "tile", "bulk"),
    [([], None, False), (["--vae_sample_size", "64"], 64, False), (["--vae_sample_size", "0"], None, True)],
)
def test_the_tile_size_of_hunyuan_video_15_is_a_flag_of_its_trainer(argv: list[str], tile: int, bulk: bool) -> None:
    found = vae_from_args(given(*argv))
    assert (found.spatial_tile_sample_min_size, found.bulk_decode) == (tile, bulk)
