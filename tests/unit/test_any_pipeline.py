"""Any pipeline of diffusers: what a bare script makes with the same seed, to the bit, with and without a LoRA."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from peft import LoraConfig, get_peft_model
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from pipeline_support import bare, drawn, pixels, spec_of, write_adapter
from rushes.cli.main import main
from rushes.errors import LoraError, ModelError, PromptError
from rushes.integrations.adapter_files import save_adapter
from rushes_service.engine.engine import Engine
from rushes_service.models.generic.names import unet_name
from rushes_service.models.generic.tiny import PIPELINES, build
from rushes_service.models.registry import find


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("pipelines")
    for name in PIPELINES:
        build(name, directory / name)
    return directory


@pytest.mark.parametrize("name", PIPELINES)
def test_without_options_a_picture_is_what_the_bare_pipeline_makes(name, models, tmp_path):
    denoised = drawn(models / name, tmp_path / "cache", width=64, height=32, sample_steps=3)
    wanted = bare(models / name, width=64, height=32, num_inference_steps=3)
    assert torch.equal(pixels(denoised), wanted)
    assert wanted.std() > 0.01
    again = drawn(models / name, tmp_path / "cache", width=64, height=32, sample_steps=3)
    assert torch.equal(pixels(again), wanted)


@pytest.mark.parametrize(
    ("name", "options", "arguments"),
    [
        ("sdxl", {"cfg_scale": 3.0, "negative_prompt": "blue"}, {"guidance_scale": 3.0, "negative_prompt": "blue"}),
        ("sdxl", {"guidance_scale": 1.0}, {"guidance_scale": 1.0}),
        ("sd3", {"guidance_scale": 2.0, "negative_prompt": "blue"}, {"guidance_scale": 2.0, "negative_prompt": "blue"}),
        (
            "flux",
            {"guidance_scale": 2.0, "cfg_scale": 3.0, "negative_prompt": "blue"},
            {"guidance_scale": 2.0, "true_cfg_scale": 3.0, "negative_prompt": "blue"},
        ),
    ],
)
def test_options_are_the_pipelines_arguments(name, options, arguments, models, tmp_path):
    denoised = drawn(models / name, tmp_path / "cache", width=32, height=32, sample_steps=2, **options)
    wanted = bare(models / name, width=32, height=32, num_inference_steps=2, **arguments)
    assert torch.equal(pixels(denoised), wanted)
    assert not torch.equal(wanted, bare(models / name, width=32, height=32, num_inference_steps=2))
    assert not [warning for warning in denoised.warnings if "ignored" in warning]


@pytest.mark.parametrize(
    ("name", "style"),
    [*((name, "diffusers") for name in PIPELINES), ("sdxl", "flat"), ("sdxl", "release"), ("sd3", "flat")],
)
def test_a_lora_makes_what_diffusers_makes_of_it(name, style, models, tmp_path):
    options = {"width": 32, "height": 32, "sample_steps": 2}
    dotted = write_adapter(tmp_path / "dotted.safetensors", models / name)
    adapter = write_adapter(tmp_path / "lora.safetensors", models / name, style=style)
    found = pixels(drawn(models / name, tmp_path / "cache", adapter, **options))
    asked = {"width": 32, "height": 32, "num_inference_steps": 2}
    wanted = bare(models / name, dotted, **asked)
    assert torch.allclose(found, wanted, rtol=0, atol=1e-5)
    assert (wanted - bare(models / name, **asked)).abs().max() > 1e-3


@pytest.mark.parametrize("wrapped", [False, True])
def test_the_lora_of_a_unet_in_training_is_written_as_diffusers_reads_it(wrapped, models, tmp_path):
    torch.manual_seed(0)
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["to_q", "to_v"], init_lora_weights=False)
    unet = UNet2DConditionModel.from_pretrained(models / "sdxl" / "unet")
    if wrapped:
        unet = get_peft_model(unet, config)
    else:
        unet.add_adapter(config)
    save_adapter(unet, str(tmp_path / "lora.safetensors"))
    asked = {"width": 32, "height": 32, "num_inference_steps": 2}
    wanted = bare(models / "sdxl", tmp_path / "lora.safetensors", **asked)
    assert (wanted - bare(models / "sdxl", **asked)).abs().max() > 1e-3
    tensors = load_file(tmp_path / "lora.safetensors")
    older = {name.replace("unet.", "transformer.", 1): tensor for name, tensor in tensors.items()}
    with safe_open(tmp_path / "lora.safetensors", "pt") as file:
        stated = {name: text.replace('"unet.', '"transformer.') for name, text in file.metadata().items()}
    save_file(older, tmp_path / "older.safetensors", metadata=stated)
    assert all(name.startswith("unet.") for name in tensors)
    for name in ("lora", "older"):
        options = {"width": 32, "height": 32, "sample_steps": 2}
        found = pixels(drawn(models / "sdxl", tmp_path / "cache", tmp_path / f"{name}.safetensors", **options))
        assert torch.allclose(found, wanted, rtol=0, atol=1e-5)


def test_size_steps_and_guidance_are_the_pipelines_own_and_in_the_receipt(models, tmp_path):
    denoised = drawn(models / "sdxl", tmp_path / "cache")
    used = denoised.parameters
    assert (used.width, used.height, used.sample_steps, used.guidance_scale) == (32, 32, 50, 5.0)
    assert torch.equal(pixels(denoised), bare(models / "sdxl"))


def test_what_the_pipeline_does_not_take_is_ignored_with_a_warning(models, tmp_path):
    path = tmp_path / "start.png"
    Image.new("RGB", (32, 32)).save(path)
    options = {"image_path": str(path), "discrete_flow_shift": 3.0, "cfg_scale": 2.0, "guidance_scale": 3.0}
    warnings = drawn(models / "sdxl", tmp_path / "cache", width=32, height=32, sample_steps=2, **options).warnings
    assert "--i is ignored: StableDiffusionXLPipeline takes no image" in warnings
    assert "--l is ignored: StableDiffusionXLPipeline takes no true_cfg_scale" in warnings
    assert "--fs is ignored by diffusers" in warnings


def test_embeddings_are_kept_and_the_encoders_then_not_needed(models, tmp_path):
    copy = tmp_path / "model"
    shutil.copytree(models / "sdxl", copy)
    first = pixels(drawn(copy, tmp_path / "cache", width=32, height=32, sample_steps=2))
    engine = Engine("cpu", tmp_path / "cache")
    base = find("diffusers")(spec_of(copy), engine.device, torch.float32)
    base.load()
    assert not isinstance(base._pipe.text_encoder, torch.nn.Module)
    assert not isinstance(base._pipe.text_encoder_2, torch.nn.Module)
    again = pixels(drawn(copy, tmp_path / "cache", width=32, height=32, sample_steps=2))
    assert torch.equal(again, first)


@pytest.mark.parametrize("key", ["lora_te1_text_model_encoder_layers_9_mlp_fc1", "lora_te3_x", "lora_unet_nowhere"])
def test_keys_of_a_text_encoder_or_of_nothing_are_refused_with_their_names(key, models, tmp_path):
    adapter = write_adapter(tmp_path / "lora.safetensors", models / "sdxl", style="flat", extra=(key,))
    with pytest.raises(LoraError, match=key):
        drawn(models / "sdxl", tmp_path / "cache", adapter, width=32, height=32, sample_steps=2)


def test_every_module_of_sdxl_has_its_name_of_the_release():
    unet = PIPELINES["sdxl"]().unet
    names = {name: unet_name(name, unet) for name, _ in unet.named_modules()}
    assert names["down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"] == (
        "input_blocks.4.1.transformer_blocks.0.attn1.to_q"
    )
    assert names["down_blocks.0.downsamplers.0.conv"] == "input_blocks.3.0.op"
    assert names["mid_block.resnets.1.conv1"] == "middle_block.2.in_layers.2"
    assert names["up_blocks.0.upsamplers.0.conv"] == "output_blocks.2.2.conv"
    assert names["up_blocks.1.resnets.0.conv_shortcut"] == "output_blocks.3.0.skip_connection"


def test_a_size_that_the_pipeline_would_change_is_an_error(models, tmp_path):
    with pytest.raises(PromptError, match="--w 32 --h 32"):
        drawn(models / "flux", tmp_path / "cache", width=40, height=32, sample_steps=1)


def test_a_directory_without_a_pipeline_or_with_an_unknown_one_is_an_error(tmp_path):
    with pytest.raises(ModelError, match="no diffusers model"):
        drawn(tmp_path, tmp_path / "cache")
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "NoSuchPipeline"}))
    with pytest.raises(ModelError, match="NoSuchPipeline, which diffusers"):
        drawn(tmp_path, tmp_path / "cache")
    parts = {name: ["diffusers", "WanTransformer3DModel"] for name in ("transformer", "transformer_2")}
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "WanPipeline", **parts}))
    with pytest.raises(ModelError, match=r"WanPipeline must have one transformer.*transformer and transformer_2"):
        drawn(tmp_path, tmp_path / "cache")


def test_inspecting_for_any_pipeline_says_that_it_cannot_tell(models, tmp_path, capsys):
    adapter = write_adapter(tmp_path / "lora.safetensors", models / "flux")
    assert main(["inspect", str(adapter), "--architecture", "diffusers"]) == 2
    assert "depends on the pipeline" in capsys.readouterr().err
