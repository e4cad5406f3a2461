"""hunyuan-video-i2v is diffusers' own pipeline, bit for bit but for padding; no trainer samples it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, HunyuanVideoImageToVideoPipeline, HunyuanVideoPipeline
from PIL import Image
from safetensors.torch import save_file

from engine_support import Recorder, tiny_prompt
from family_support import as_loaded, build_tiny
from rushes.errors import ModelError
from rushes.wire.jobs import SampleJob
from rushes.wire.models import ModelSpec
from rushes_service.engine.engine import DenoisedSample, Engine
from rushes_service.models.encoders.tiny_llama import llama_tokenizer
from rushes_service.models.hunyuan.i2v import HunyuanVideoImageToVideo
from rushes_service.models.hunyuan.tiny import IMAGE_TEMPLATE, TEXT_TEMPLATE, build_tiny_hunyuan_i2v_33


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    directory = tmp_path_factory.mktemp("i2v")
    return {
        "token_replace": build_tiny("hunyuan-video-i2v", directory / "16"),
        "latent_concat": build_tiny_hunyuan_i2v_33(directory / "33"),
    }


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture of other proportions than the samples, to see that it is prepared as the pipeline does."""
    path = tmp_path_factory.mktemp("picture") / "start.png"
    noise = np.random.default_rng(0).integers(0, 255, (10, 20, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((100, 50)).save(path)
    return path


OPTIONS: dict[str, Any] = {"width": 48, "height": 32, "frame_count": 9, "sample_steps": 3, "seed": 11}
GUIDANCE = {"plain": {}, "guided": {"negative_prompt": "blurred", "cfg_scale": 3.0, "guidance_scale": 2.0}}


def ours(model: Path, picture: Path, cache: Path, **options: Any) -> DenoisedSample:
    prompt = tiny_prompt(**OPTIONS, image_path=str(picture), discrete_flow_shift=5.0, **options)
    spec = ModelSpec(architecture="hunyuan-video-i2v", model=str(model))
    job = SampleJob(id="0" * 32, run="r", submission="s", model=spec, prompt=prompt, output_dir="/nowhere")
    return Engine("cpu", cache).denoise(job, Recorder())


def theirs(model: Path, picture: Path, frames: int, **options: Any) -> torch.Tensor:
    """What the pipeline makes of the same request, [F, 3, H, W] in 0..1."""
    pipe = as_loaded(HunyuanVideoImageToVideoPipeline.from_pretrained(model))
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = FlowMatchEulerDiscreteScheduler(shift=5.0)
    pipe.vae.use_framewise_decoding = False
    call = {"guidance_scale": options.get("guidance_scale", 6.0), "true_cfg_scale": options.get("cfg_scale", 1.0)}
    return pipe(
        image=Image.open(picture).convert("RGB"),
        prompt="a red ball",
        negative_prompt=options.get("negative_prompt"),
        width=OPTIONS["width"],
        height=OPTIONS["height"],
        num_frames=frames,
        num_inference_steps=OPTIONS["sample_steps"],
        generator=torch.Generator().manual_seed(OPTIONS["seed"]),
        output_type="pt",
        **call,
    ).frames[0]


@pytest.mark.parametrize("guidance", GUIDANCE)
@pytest.mark.parametrize(("kind", "dropped"), [("token_replace", 0), ("latent_concat", 4)])
def test_video_is_the_pipelines_bit_for_bit_with_its_padding(
    models, picture, tmp_path, monkeypatch, kind, dropped, guidance
):
    monkeypatch.setattr("rushes_service.models.hunyuan.t2v.padding_is_behind", lambda _: False)
    found, wanted = both(models[kind], picture, tmp_path, dropped, GUIDANCE[guidance])
    assert torch.equal(found, wanted)


@pytest.mark.parametrize(("kind", "dropped"), [("token_replace", 0), ("latent_concat", 4)])
def test_without_its_padding_video_is_the_pipelines_but_for_rounding(models, picture, tmp_path, kind, dropped):
    found, wanted = both(models[kind], picture, tmp_path, dropped, GUIDANCE["guided"])
    assert (found - wanted).abs().max() <= 1e-4


def both(
    model: Path, picture: Path, cache: Path, dropped: int, options: dict[str, Any]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Our frames and the pipeline's, [3, F, H, W]."""
    denoised = ours(model, picture, cache, **options)
    wanted = theirs(model, picture, 9 + dropped, **options)
    found = torch.cat(list(denoised.pixels()), dim=1)
    assert wanted.shape == (9, 3, 32, 48)
    return found, wanted.transpose(0, 1)


@pytest.mark.parametrize(("kind", "dropped"), [("token_replace", 0), ("latent_concat", 4)])
def test_the_receipt_tells_the_true_count_of_frames_and_what_was_dropped(models, picture, tmp_path, kind, dropped):
    denoised = ours(models[kind], picture, tmp_path)
    assert len(list(denoised.frames())) == 9
    facts = denoised.facts()
    assert facts["parameters"]["frame_count"] == 9
    assert (facts["image_condition"], facts["dropped_frames"]) == (kind, dropped)
    assert len(facts["sigmas"]) == 4


@pytest.mark.parametrize("template", [TEXT_TEMPLATE, IMAGE_TEMPLATE])
def test_the_tiny_tokenizer_counts_a_template_as_the_pipeline_does(template):
    tokenizer = llama_tokenizer(template)
    before, _ = template["template"].split("{}")
    assert len(tokenizer(before)["input_ids"]) == template["crop_start"]
    whole = tokenizer.convert_ids_to_tokens(tokenizer(template["template"].format("a cat"))["input_ids"])
    assert whole[template["crop_start"] :][:5] == ["a", "Ġ", "c", "a", "t"]


def test_text_is_encoded_as_the_text_pipeline_does(tmp_path):
    model = build_tiny("hunyuan-video", tmp_path / "model")
    pipe = HunyuanVideoPipeline.from_pretrained(model)
    spec = ModelSpec(architecture="hunyuan-video", model=str(model))
    prompt = tiny_prompt()
    engine = Engine("cpu", tmp_path / "cache")
    job = SampleJob(id="0" * 32, run="r", submission="s", model=spec, prompt=prompt, output_dir="/nowhere")
    engine.denoise(job, Recorder())
    base = engine.loaded.base
    cached = engine.conditioning.read(base.text_key(prompt.prompt))
    embeds, pooled, mask = pipe.encode_prompt(prompt.prompt)
    assert torch.equal(cached["prompt_embeds"], embeds)
    assert torch.equal(cached["pooled_prompt_embeds"], pooled)
    assert torch.equal(cached["prompt_attention_mask"], mask)
    assert (embeds.shape[1], int(mask.sum())) == (256, len("a red ball") + 1)


def test_a_single_file_for_the_encoder_that_sees_is_refused_before_anything_is_loaded(tmp_path):
    llama = tmp_path / "llava_llama3_fp16.safetensors"
    save_file({"model.layers.0.mlp.gate_proj.weight": torch.zeros(2, 2)}, llama)
    spec = ModelSpec(architecture="hunyuan-video-i2v", model=str(tmp_path), text_encoder1=str(llama))
    (tmp_path / "model_index.json").write_text('{"_class_name": "HunyuanVideoImageToVideoPipeline"}')
    base = HunyuanVideoImageToVideo(spec, torch.device("cpu"), torch.float32)
    with pytest.raises(ModelError, match="is a single file"):
        base.load()
