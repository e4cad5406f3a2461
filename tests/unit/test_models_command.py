"""`rushes models`: the table of families for people and for programs."""

from __future__ import annotations

import json

import pytest

from rushes.cli.main import main
from rushes.families.table import ARCHITECTURES


def listed(capsys: pytest.CaptureFixture[str], *names: str) -> dict[str, dict]:
    assert main(["models", "--json", *names]) == 0
    return {family["name"]: family for family in json.loads(capsys.readouterr().out)}


def test_every_family_is_listed_with_what_it_needs_and_where_it_is(capsys):
    families = listed(capsys)
    assert set(families) == set(ARCHITECTURES)
    assert len(families) >= 11
    assert all(family["hub_id"].count("/") == 1 for family in families.values())
    assert families["wan2.1-fun-control"]["requires"] == ["--cn"]
    assert families["wan2.1-i2v"]["requires"] == ["--i"]


@pytest.mark.parametrize(
    ("name", "defaults"),
    [
        ("wan2.1-t2v", {"cfg_scale": 5.0, "discrete_flow_shift": 14.5, "guidance_scale": None, "frame_count": 1}),
        ("hunyuan-video", {"cfg_scale": 1.0, "discrete_flow_shift": 14.5, "guidance_scale": 6.0, "frame_count": 1}),
        ("skyreels-v1-t2v", {"cfg_scale": 6.0, "discrete_flow_shift": 14.5, "guidance_scale": 1.0}),
        ("framepack", {"cfg_scale": 1.0, "discrete_flow_shift": None, "guidance_scale": 10.0, "frame_count": 37}),
        ("flux1-kontext", {"cfg_scale": 1.0, "discrete_flow_shift": 14.5, "guidance_scale": 2.5, "frame_count": 1}),
    ],
)
def test_defaults_are_those_of_the_trainers(capsys, name, defaults):
    found = listed(capsys, name)[name]["defaults"]
    assert {**found, **defaults} == found
    assert (found["width"], found["height"], found["sample_steps"]) == (256, 256, 20)


def test_a_family_of_pictures_has_no_frame_rate_and_ignores_frames(capsys):
    family = listed(capsys, "flux1-kontext")["flux1-kontext"]
    assert family["fps"] is None
    assert {"--f", "--n", "--l"} <= set(family["ignores"])
    assert family["uses"] == ["--ci"]


def test_people_read_the_same_facts(capsys):
    assert main(["models", "framepack"]) == 0
    text = capsys.readouterr().out
    assert "framepack  FramePack image to video" in text
    for fact in ("--i", "--g 10", "36k+1 frames", "30 frames a second", "lllyasviel/FramePackI2V_HY"):
        assert fact in text
    assert "wan" not in text


def test_an_unknown_family_is_an_error_that_names_the_known_ones(capsys):
    assert main(["models", "wan9"]) == 1
    assert "wan2.1-t2v" in capsys.readouterr().err


def test_families_that_are_not_served_yet_are_told_with_the_reason(capsys):
    assert main(["models"]) == 0
    assert "\nnot yet: ideogram4 (its weights" in capsys.readouterr().out
    assert main(["models", "hidream-o1"]) == 1
    assert "hidream-o1 cannot be sampled yet: diffusers has no pipeline for it" in capsys.readouterr().err
