"""Kandinsky 5 is the reference sampler's: from the trainer's flags and prompt files to latents and frames."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import Kandinsky5T2IPipeline

from family_support import build_tiny
from golden_files_support import expected, recorded_engine, recorded_model, recorded_runs
from golden_support import Case, distance, sample, video
from rushes.integrations.musubi.families import kandinsky_family
from rushes.submission.build import seed_for
from rushes.training.flags import model_from_args
from rushes.wire.models import ModelSpec
from rushes_service.engine.engine import Engine
from rushes_service.models.kandinsky5.text import template
from rushes_service.models.kandinsky5.video import Kandinsky5TextToVideo
from rushes_service.models.registry import find

T2V, I2V, T2I = (Case(name) for name in ("k5_t2v", "k5_i2v", "k5_t2i"))
LATENTS_TOLERANCE = 1e-4
VIDEO_TOLERANCE = 1e-4
BFLOAT16_NOISE, AS_SHIPPED = "bf16_noise", "asis_bf16"
ROUNDING = 0.1
"""Mean distance of latents made in bfloat16 from those made in float32 of the same noise."""

RUNS = [(case, run) for case in (T2V, I2V, T2I) for run in recorded_runs(case, but=(BFLOAT16_NOISE, AS_SHIPPED))]
"""Runs in float32."""

POSTERIOR_SEED = 2024
"""Of the global generator, from which the reference draws the start image's latents."""


class Flags(dict[str, Any]):
    """A trainer's parsed flags."""

    __getattr__ = dict.__getitem__


def model_of(case: Case, run: str, directory: Path) -> ModelSpec:
    """The recorded files, as the recorded command line names them.

    The picture model was recorded with a VAE that it cannot decode with; here it has a tiny one.
    """
    given = [*case.facts["argv"], *case.facts["runs"][run]["extra_argv"]]
    flags = Flags({name[2:]: value for name, value in pairwise(given) if name.startswith("--")})
    family = str(kandinsky_family(flags))  # type: ignore[arg-type]
    recorded = recorded_model(case, family, directory / "files", "hv_vae")
    scale = flags.get("scheduler_scale")
    asked = {"dit": recorded.dit, "task": flags["task"], "scheduler_scale": scale and float(scale)}
    if case is T2I:
        return model_from_args(asked, family, str(build_tiny(family, directory / "tiny")))
    return model_from_args({**asked, "vae": recorded.vae}, family, None)


def engine_for(case: Case, model: ModelSpec, cache: Path) -> Engine:
    """An engine with the recorded embeddings in its cache, for clips and for single pictures."""
    recorded = case.tensors("embeds")
    texts = {
        text: {"embeds": recorded[f"{name}text_embeds"][None], "pooled": recorded[f"{name}pooled_embed"]}
        for text, name in case.facts["embeds"].items()
    }
    engine = recorded_engine(case, model, cache, texts)
    base = find(model.architecture)(model, engine.device, torch.bfloat16 if model.dtype else torch.float32)
    for text, tensors in texts.items():
        engine.conditioning.write(base.text_key(text, picture=True), tensors)  # type: ignore[attr-defined]
    return engine


def channels_last(latents: torch.Tensor) -> torch.Tensor:
    """Latents [1, C, T, h, w] as the reference has them, [T, h, w, C]."""
    return latents[0].permute(1, 2, 3, 0)


@pytest.fixture(autouse=True)
def drawn_as_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The start image's posterior is drawn by what the recording seeded, not by the sample's seed."""
    seeded = torch.Generator().manual_seed
    monkeypatch.setattr(Kandinsky5TextToVideo, "posterior_generator", lambda *_: seeded(POSTERIOR_SEED))


@pytest.mark.parametrize(("case", "run"), RUNS, ids=lambda value: getattr(value, "name", value))
def test_latents_and_video_are_the_references(case: Case, run: str, tmp_path: Path) -> None:
    wanted, model = expected(case, run), model_of(case, run, tmp_path)
    prompt = case.prompt(case.facts["runs"][run]["prompts_file"])
    seeded = prompt.model_copy(update={"seed": seed_for(prompt, model)})
    denoised = sample(engine_for(case, model, tmp_path / "cache"), model, seeded, case.lora if run == "lora" else None)
    assert distance(channels_last(denoised.latents), wanted["final_latents"]) <= LATENTS_TOLERANCE
    sigmas = torch.tensor(denoised.facts()["sigmas"])
    assert distance(sigmas[:-1], wanted["timesteps"] / 1000) <= 1e-6
    if "video" in wanted:
        assert distance(video(denoised), wanted["video"]) <= VIDEO_TOLERANCE


def test_bfloat16_draws_the_references_noise_and_rounds_about_as_it_does(tmp_path: Path) -> None:
    model = model_of(T2V, "base", tmp_path).model_copy(update={"dtype": "bfloat16"})
    engine = engine_for(T2V, model, tmp_path / "cache")
    denoised = sample(engine, model, T2V.prompt())
    base = find(model.architecture)(model, engine.device, torch.bfloat16)
    base.load()
    drawn = base.noise(denoised.parameters)[0]  # type: ignore[attr-defined]
    assert torch.equal(drawn, T2V.expected[f"{BFLOAT16_NOISE}.noise"])
    wanted = T2V.expected[f"{BFLOAT16_NOISE}.final_latents"]
    assert (channels_last(denoised.latents) - wanted).abs().mean() < ROUNDING


@pytest.mark.parametrize("change", [{"seed": 1}, {"guidance_scale": 4.4}, {"width": 48}])
def test_the_tolerance_tells_right_from_wrong(change: dict[str, Any], tmp_path: Path) -> None:
    model = model_of(T2V, "base", tmp_path)
    prompt = T2V.prompt().model_copy(update=change)
    latents = sample(engine_for(T2V, model, tmp_path / "cache"), model, prompt).latents
    wanted = T2V.expected["base.final_latents"]
    found = channels_last(latents)
    assert found.shape != wanted.shape or distance(found, wanted) > 50 * LATENTS_TOLERANCE


def test_pictures_are_decoded_as_diffusers_pipeline_decodes_them(tmp_path: Path) -> None:
    model = model_of(T2I, "base", tmp_path)
    denoised = sample(engine_for(T2I, model, tmp_path / "cache"), model, T2I.prompt())
    pipe = Kandinsky5T2IPipeline.from_pretrained(str(model.model))
    unscaled = denoised.latents[:, :, 0] / pipe.vae.config.scaling_factor
    wanted = pipe.image_processor.postprocess(pipe.vae.decode(unscaled).sample, output_type="pt")
    assert distance(video(denoised)[:, :, 0], wanted) <= 1e-6


def test_the_system_prompts_are_spelt_as_the_models_were_trained() -> None:
    for picture in (False, True):
        before, after = template(picture=picture)
        assert before.startswith("<|im_start|>system\nYou are a promt engineer. Describe the ")
        assert before.endswith("<|im_end|>\n<|im_start|>user\n")
        assert after == "<|im_end|>"
