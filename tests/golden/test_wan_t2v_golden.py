"""wan2.1-t2v is the reference sampler's: from its prompt file to latents and frames, through the engine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel
from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers, convert_wan_vae_to_diffusers
from safetensors.torch import load_file

from engine_support import Recorder
from rushes.checkpoints import fingerprint
from rushes.jobs import Checkpoint, ModelSpec, Prompt, SampleJob
from rushes.prompts import load_prompts
from rushes_service.architectures.registry import find
from rushes_service.architectures.wan import initial_noise
from rushes_service.engine import Engine, Take

CASE = Path(__file__).parent / "wan_t2v"
LATENTS_TOLERANCE = 1e-4
VIDEO_TOLERANCE = 1e-3
"""Weights perturbed by 1e-6 move the video by up to 4e-5; a shift of 3.1 for 3.0 moves it by 1."""


@pytest.fixture(scope="module")
def expected() -> dict[str, torch.Tensor]:
    return load_file(CASE / "expected.safetensors")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    """A diffusers directory of the recorded weights, which bear their original names."""
    classes = json.loads((CASE / "case.json").read_text())["diffusers"]
    transformer = WanTransformer3DModel(**classes["transformer"]["kwargs"])
    transformer.load_state_dict(convert_wan_transformer_to_diffusers(load_file(CASE / "dit.safetensors")))
    vae = AutoencoderKLWan(**classes["vae"]["kwargs"])
    vae.load_state_dict(convert_wan_vae_to_diffusers(load_file(CASE / "vae.safetensors")))
    directory = tmp_path_factory.mktemp("golden") / "wan"
    pipe = WanPipeline(
        tokenizer=None, text_encoder=None, transformer=transformer, vae=vae, scheduler=UniPCMultistepScheduler()
    )
    pipe.save_pretrained(directory)
    return ModelSpec(architecture="wan2.1-t2v", model=str(directory))


@pytest.fixture(scope="module")
def engine(model: ModelSpec, prompt: Prompt, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    """An engine with the recorded embeddings in its cache; the model has no text encoder at all."""
    engine = Engine("cpu", tmp_path_factory.mktemp("cache"))
    base = find(model.architecture)(model, engine.device, torch.float32)
    recorded = load_file(CASE / "embeds.safetensors")
    texts = {prompt.prompt: recorded["t5_embeds"], prompt.negative_prompt: recorded["negative_t5_embeds"]}
    for text, embeds in texts.items():
        padded = torch.zeros(1, 512, embeds.shape[1])
        padded[0, : len(embeds)] = embeds
        engine.conditioning.write(base.text_key(text), {"embeds": padded})
    return engine


@pytest.fixture(scope="module")
def prompt() -> Prompt:
    (prompt,) = load_prompts(CASE / "prompts.txt")
    return prompt


def sample(engine: Engine, model: ModelSpec, prompt: Prompt, lora: Path | None = None) -> Take:
    checkpoint = Checkpoint(path=str(lora), fingerprint=fingerprint(lora)) if lora else None
    job = SampleJob(
        id="0" * 32,
        run="golden",
        submission="golden",
        model=model,
        checkpoint=checkpoint,
        prompt=prompt,
        output_dir="/",
    )
    return engine.denoise(job, Recorder())


def distance(found: torch.Tensor, wanted: torch.Tensor) -> float:
    assert found.shape == wanted.shape
    return float((found - wanted).abs().max())


@pytest.mark.parametrize("run", ["base", "lora"])
def test_latents_and_video_are_the_references(engine, model, prompt, expected, run):
    take = sample(engine, model, prompt, CASE / "lora.safetensors" if run == "lora" else None)
    assert distance(take.latents, expected[f"{run}.final_latents"]) <= LATENTS_TOLERANCE
    video = torch.cat(list(take.pixels()), dim=1)[None]
    assert distance(video, expected[f"{run}.video"]) <= VIDEO_TOLERANCE


def test_frames_are_truncated_to_bytes_as_the_reference_writes_them(engine, model, prompt, expected):
    frames = list(sample(engine, model, prompt).frames())
    wanted = (expected["base.video"][0].permute(1, 2, 3, 0) * 255).to(torch.uint8)
    assert [frame.shape for frame in frames] == [(32, 48, 3)] * 9
    difference = torch.stack([torch.from_numpy(frame) for frame in frames]).int() - wanted.int()
    assert difference.abs().max() <= 1
    assert (difference != 0).float().mean() < 0.01


def test_sigmas_and_initial_noise_are_the_references_bit_for_bit(engine, model, prompt, expected):
    take = sample(engine, model, prompt)
    assert torch.equal(torch.tensor(take.facts()["sigmas"]), expected["base.sigmas"])
    assert torch.equal(initial_noise(take.parameters, torch.device("cpu"))[0], expected["noise"])


@pytest.mark.parametrize(
    "change", [{"seed": 1235}, {"discrete_flow_shift": 3.1}, {"cfg_scale": 4.9}, {"lora_multiplier": 0.0}]
)
def test_the_tolerance_tells_right_from_wrong(engine, model, prompt, expected, change):
    take = sample(engine, model, prompt.model_copy(update=change), CASE / "lora.safetensors")
    assert distance(take.latents, expected["lora.final_latents"]) > 50 * LATENTS_TOLERANCE


def test_embedded_guidance_is_ignored_with_a_warning(engine, model, prompt, expected):
    take = sample(engine, model, prompt.model_copy(update={"guidance_scale": 7.0}))
    assert distance(take.latents, expected["base.final_latents"]) <= LATENTS_TOLERANCE
    assert any("--g" in warning for warning in take.warnings)
