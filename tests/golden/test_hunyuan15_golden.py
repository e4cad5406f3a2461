"""HunyuanVideo 1.5's families are the reference sampler's: from files and prompt files to latents and frames."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from shutil import copy

import pytest
import torch

from golden_support import SHARED, Case, distance, sample, video
from rushes.wire.jobs import Prompt, VaeOptions
from rushes.wire.models import ModelSpec
from rushes_service.engine.engine import Engine
from rushes_service.models.hunyuan15.i2v import start_image
from rushes_service.models.registry import find
from single_files_support import with_config

LATENTS_TOLERANCE = 1e-4
VIDEO_TOLERANCE = 1e-4
ROUNDING = 0.1
"""Mean distance of latents made in bfloat16."""

NAMES = {"hv15_t2v": "hunyuan-video-1.5-t2v", "hv15_i2v": "hunyuan-video-1.5-i2v"}

RUNS = [
    ("hv15_t2v", "base", "prompts.txt", VaeOptions()),
    ("hv15_t2v", "lora", "prompts.txt", VaeOptions()),
    ("hv15_t2v", "no_cfg", "prompts_no_cfg.txt", VaeOptions()),
    ("hv15_t2v", "no_fs", "prompts_no_fs.txt", VaeOptions()),
    ("hv15_t2v", "one_frame", "prompts_one_frame.txt", VaeOptions()),
    (
        "hv15_t2v",
        "vae_sample_size64",
        "prompts_vae_sample_size64.txt",
        VaeOptions(spatial_tile_sample_min_size=64),
    ),
    ("hv15_t2v", "default_tiling128", "prompts_default_tiling128.txt", VaeOptions()),
    ("hv15_t2v", "w56_floors_to_48", "prompts_w56_floors_to_48.txt", VaeOptions()),
    ("hv15_i2v", "base", "prompts.txt", VaeOptions()),
    ("hv15_i2v", "lora", "prompts.txt", VaeOptions()),
    ("hv15_i2v", "no_cfg", "prompts_no_cfg.txt", VaeOptions()),
]


@dataclass(frozen=True)
class Studio:
    """A case with the engine that samples it."""

    case: Case
    engine: Engine
    model: ModelSpec


def recorded_model(case: Case, directory: Path) -> ModelSpec:
    """The recorded files under their original names, described by what the recording was made with."""
    transformer, vae = case.arguments("transformer"), case.arguments("vae")
    directory.mkdir()
    dit = Path(copy(case.directory / "dit.safetensors", directory / "dit.safetensors"))
    with_config(dit, "HunyuanVideo15Transformer3DModel", {**transformer, "glyph_hidden_dim": 20})
    coder = Path(copy(SHARED / "hv15_vae.safetensors", directory / "vae.safetensors"))
    with_config(coder, "AutoencoderKLHunyuanVideo15", vae)
    return ModelSpec(architecture=NAMES[case.name], dit=str(dit), vae=str(coder))


def recorded_engine(case: Case, model: ModelSpec, cache: Path) -> Engine:
    """An engine with the recorded embeddings in its cache."""
    engine, recorded, prompt = Engine("cpu", cache), case.tensors("embeds"), case.prompt()
    base = find(model.architecture)(model, engine.device, torch.float32)
    for prefix, text in (("", prompt.prompt), ("negative_", prompt.negative_prompt or "")):
        mask, glyph_mask = recorded[f"{prefix}vl_mask"][0].bool(), recorded[f"{prefix}byt5_mask"][0].bool()
        tensors = {
            "embeds": recorded[f"{prefix}vl_embed"][:, mask],
            "glyphs": recorded[f"{prefix}byt5_embed"][:, glyph_mask],
        }
        engine.conditioning.write(base.text_key(text), tensors)
    if prompt.image_path is not None:
        picture = start_image(
            prompt.model_copy(update={"width": 48, "height": 32})
        )  # what it asks for, or its rounding
        tokens = {"image": recorded["image_encoder_last_hidden_state"]}
        engine.conditioning.write(base.image_key(picture), tokens)
    return engine


@pytest.fixture(scope="module")
def studios(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Studio]:
    found = {}
    for name in NAMES:
        case, directory = Case(name), tmp_path_factory.mktemp(name)
        model = recorded_model(case, directory / "model")
        found[name] = Studio(case, recorded_engine(case, model, directory / "cache"), model)
    return found


@pytest.mark.parametrize(
    ("name", "run", "file", "vae"), RUNS, ids=lambda value: value if isinstance(value, str) else ""
)
def test_latents_and_video_are_the_references(studios, name, run, file, vae):
    ready = studios[name]
    denoised = sample(
        ready.engine, ready.model, ready.case.prompt(file), ready.case.lora if run == "lora" else None, vae
    )
    assert distance(denoised.latents, ready.case.expected[f"{run}.final_latents"]) <= LATENTS_TOLERANCE
    if f"{run}.video" in ready.case.expected:
        assert distance(video(denoised), ready.case.expected[f"{run}.video"]) <= VIDEO_TOLERANCE


@pytest.mark.parametrize("name", NAMES)
def test_sigmas_are_the_references(studios, name):
    ready = studios[name]
    denoised = sample(ready.engine, ready.model, ready.case.prompt())
    assert distance(torch.tensor(denoised.facts()["sigmas"]), ready.case.expected["base.sigmas"]) <= 1e-6


def test_guidance_is_on_without_a_word_of_the_prompt(studios):
    ready = studios["hv15_t2v"]
    parameters = sample(ready.engine, ready.model, ready.case.prompt()).parameters
    assert (parameters.cfg_scale, parameters.negative_prompt) == (6.0, "")


@pytest.mark.parametrize("change", [{"seed": 1}, {"discrete_flow_shift": 7.1}, {"cfg_scale": 5.9}])
def test_the_tolerance_tells_right_from_wrong(studios, change):
    ready = studios["hv15_t2v"]
    denoised = sample(ready.engine, ready.model, ready.case.prompt().model_copy(update=change))
    assert distance(denoised.latents, ready.case.expected["base.final_latents"]) > 50 * LATENTS_TOLERANCE


def test_bfloat16_is_the_references_but_for_its_rounding(studios, tmp_path):
    ready = studios["hv15_t2v"]
    model = ready.model.model_copy(update={"dtype": "bfloat16"})
    base = find(model.architecture)(model, torch.device("cpu"), torch.bfloat16)
    single = find(model.architecture)(ready.model, torch.device("cpu"), torch.float32)
    engine = Engine("cpu", tmp_path)
    for text in (ready.case.prompt().prompt, ""):
        engine.conditioning.write(base.text_key(text), ready.engine.conditioning.read(single.text_key(text)))
    denoised = sample(engine, model, ready.case.prompt())
    wanted = ready.case.expected["asis_bf16.final_latents"]
    assert (denoised.latents - wanted).abs().mean() < ROUNDING


def test_a_size_that_the_reference_fails_at_is_rounded_down_with_a_warning(studios):
    ready = studios["hv15_i2v"]
    denoised = sample(ready.engine, ready.model, ready.case.prompt("prompts_w56_not_16.txt"))
    assert distance(denoised.latents, ready.case.expected["base.final_latents"]) <= LATENTS_TOLERANCE
    assert any("--w 56 rounded down to 48" in warning for warning in denoised.warnings)


def test_the_prompt_file_says_what_was_recorded(studios):
    assert isinstance(studios["hv15_i2v"].case.prompt(), Prompt)
