"""wan-one-frame is the reference sampler's, with an image-to-video model and with a first and last frame model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from golden_support import Case, distance, sample, video
from rushes.errors import ArchitectureError, PromptError
from rushes.wire.models import ModelSpec
from rushes_service.engine.engine import Engine
from rushes_service.models.registry import find
from rushes_service.models.wan.inputs import IMAGE_TOKENS
from wan_support import recorded_engine, recorded_model

LATENTS_TOLERANCE = 1e-4
VIDEO_TOLERANCE = 1e-3
NAME = "wan-one-frame"

RUNS = {
    "wan_one_frame": {
        "base": ("prompts.txt", 1),
        "lora": ("prompts.txt", 1),
        "target_1": ("prompts_target_1.txt", 1),
        "two_controls": ("prompts_two_controls.txt", 1),
        "no_cfg": ("prompts_no_cfg.txt", 1),
    },
    "wan_flf2v_one_frame": {
        "base": ("prompts.txt", 1),
        "lora": ("prompts.txt", 1),
        "swapped_order": ("prompts_swapped_order.txt", 1),
        "no_cfg": ("prompts_no_cfg.txt", 1),
    },
}
"""By case and run: the prompt file, and which of the latent frames is the picture."""


@dataclass(frozen=True)
class Studio:
    """A case with the engine that samples it."""

    case: Case
    engine: Engine
    model: ModelSpec


def studio(name: str, directory: Path) -> Studio:
    """The case called `name`, its embeddings in the cache of the engine."""
    case = Case(name)
    model = recorded_model(case, NAME, directory / "model")
    engine = recorded_engine(case, model, directory / "cache")
    base, recorded = find(NAME)(model, engine.device, torch.float32), case.tensors("embeds")
    for picture, tokens in (("start.png", "clip_embeds"), ("end.png", "end_image_clip_embeds")):
        if tokens in recorded:
            key = base.image_key(str(case.directory / picture))
            engine.conditioning.write(key, {IMAGE_TOKENS: recorded[tokens]})
    return Studio(case, engine, model)


@pytest.fixture(scope="module")
def studios(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Studio]:
    return {name: studio(name, tmp_path_factory.mktemp(name)) for name in RUNS}


@pytest.mark.parametrize(("name", "run"), [(name, run) for name, runs in RUNS.items() for run in runs])
def test_latents_and_picture_are_the_references(studios, name, run):
    file, target = RUNS[name][run]
    ready = studios[name]
    lora = ready.case.lora if run == "lora" else None
    denoised = sample(ready.engine, ready.model, ready.case.prompt(file), lora)
    wanted = ready.case.expected[f"{run}.final_latents"][:, :, target : target + 1]
    assert distance(denoised.latents, wanted) <= LATENTS_TOLERANCE
    if f"{run}.video" in ready.case.expected:
        assert distance(video(denoised), ready.case.expected[f"{run}.video"]) <= VIDEO_TOLERANCE


@pytest.mark.parametrize("name", RUNS)
def test_sigmas_are_the_references_bit_for_bit(studios, name):
    ready = studios[name]
    denoised = sample(ready.engine, ready.model, ready.case.prompt())
    assert torch.equal(torch.tensor(denoised.facts()["sigmas"]), ready.case.expected["base.sigmas"])


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"discrete_flow_shift": 7.1},
        {"cfg_scale": 4.5},
        {"one_frame": "target_index=6,control_index=0"},
        {"one_frame": "target_index=5,control_index=1"},
    ],
)
def test_the_tolerance_tells_right_from_wrong(studios, change):
    ready = studios["wan_one_frame"]
    denoised = sample(ready.engine, ready.model, ready.case.prompt().model_copy(update=change))
    assert distance(denoised.latents, ready.case.expected["base.final_latents"][:, :, 1:]) > 20 * LATENTS_TOLERANCE


@pytest.mark.parametrize(
    ("name", "file", "message"),
    [
        ("wan_one_frame", "prompts_end_image_on_i2v.txt", "--ei is for first and last frame models"),
        ("wan_flf2v_one_frame", "prompts_no_end_image.txt", "needs --ei, the last picture"),
    ],
)
def test_an_end_image_that_the_reference_crashes_over_is_named(studios, name, file, message):
    with pytest.raises(PromptError, match=message):
        sample(studios[name].engine, studios[name].model, studios[name].case.prompt(file))


def test_places_that_the_reference_crashes_without_are_named(studios):
    ready = studios["wan_one_frame"]
    with pytest.raises(ArchitectureError, match="wan-one-frame needs --of"):
        sample(ready.engine, ready.model, ready.case.prompt("prompts_no_of.txt"))
    with pytest.raises(ArchitectureError, match="wan-one-frame needs --ci"):
        sample(ready.engine, ready.model, ready.case.prompt("prompts_no_ci.txt"))


def test_control_images_in_another_order_than_their_places_are_a_warning(studios):
    ready = studios["wan_one_frame"]
    prompt = ready.case.prompt("prompts_two_controls.txt")
    swapped = prompt.model_copy(update={"one_frame": "target_index=5,control_index=9;0"})
    denoised = sample(ready.engine, ready.model, swapped)
    assert any("not in ascending order" in warning for warning in denoised.warnings)
    assert denoised.facts()["control_index"] == [0, 9]
