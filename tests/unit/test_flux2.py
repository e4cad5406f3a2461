"""What is special about FLUX.2: three meanings of `--g`, a shift of its own, control images of any size."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from rushes.errors import PromptError
from rushes.families.parameters import resolve
from rushes.families.table import ARCHITECTURES
from rushes.wire.jobs import Prompt
from rushes.wire.models import ModelSpec
from rushes_service.models.flux2.base import Flux2
from rushes_service.models.flux2.control import control_pixels

KLEIN, DEV = ARCHITECTURES["flux2-klein"], ARCHITECTURES["flux2-dev"]


def picture(path: Path, width: int, height: int) -> str:
    Image.new("RGB", (width, height), "red").save(path)
    return str(path)


@pytest.mark.parametrize("scale", [None, 1.0, 0.5])
def test_the_base_models_are_guided_at_any_scale_by_a_blank(scale: float | None) -> None:
    parameters, warnings = resolve(Prompt(prompt="a", guidance_scale=scale, cfg_scale=7.0), KLEIN)
    assert (parameters.guidance_scale, parameters.negative_prompt) == (4.0 if scale is None else scale, " ")
    assert warnings == ("--l is ignored by flux2-klein",)


@pytest.mark.parametrize("version", ["klein-4b", "klein-9b"])
def test_distilled_models_ignore_guidance_and_say_so(version: str) -> None:
    model = ModelSpec(architecture="flux2-klein", model_version=version)
    parameters, warnings = resolve(Prompt(prompt="a", guidance_scale=3.0, negative_prompt="b"), KLEIN, model)
    assert (parameters.guidance_scale, parameters.negative_prompt, parameters.use_cfg) == (None, None, False)
    assert set(warnings) == {"--g is ignored by flux2-klein", "--n is ignored by flux2-klein"}


def test_dev_takes_the_scale_as_an_input_and_no_negative_prompt() -> None:
    parameters, warnings = resolve(Prompt(prompt="a", negative_prompt="b"), DEV)
    assert (parameters.guidance_scale, parameters.negative_prompt) == (4.0, None)
    assert warnings == ("--n is ignored by flux2-dev",)


def test_without_a_shift_it_grows_and_zero_is_none() -> None:
    assert resolve(Prompt(prompt="a"), KLEIN)[0].discrete_flow_shift is None
    asked = resolve(Prompt(prompt="a", discrete_flow_shift=3.0), KLEIN)[0]
    assert asked.discrete_flow_shift == 3.0
    with pytest.raises(PromptError, match="--fs 0 leaves nothing to denoise"):
        Flux2.check(resolve(Prompt(prompt="a", discrete_flow_shift=0.0), KLEIN)[0])


@pytest.mark.parametrize(
    ("size", "several", "made"),
    [
        ((1200, 900), False, (1200, 896)),
        ((1200, 900), True, (1024, 1024)),
        ((2100, 2000), False, (2016, 2016)),
        ((64, 96), False, (64, 96)),
    ],
)
def test_a_control_image_keeps_its_size_up_to_a_limit(
    size: tuple[int, int], several: bool, made: tuple[int, int], tmp_path: Path
) -> None:
    height, width, _ = control_pixels(picture(tmp_path / "a.png", *size), several=several).shape
    assert (width, height) == made


def test_a_control_image_too_small_for_a_token_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(PromptError, match=r"--ci .*a\.png has 8 x 8 pixels: .*16 x 16 at least"):
        control_pixels(picture(tmp_path / "a.png", 8, 8), several=False)
