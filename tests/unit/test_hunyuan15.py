"""HunyuanVideo 1.5: what its text encoders read, attention without a mask, names of files and LoRAs, tiles."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers.models.transformers.transformer_hunyuan_video15 import HunyuanVideo15AttnProcessor2_0
from safetensors.torch import load_file, save_file

from engine_support import Recorder, make_job
from family_support import build_tiny, picture
from rushes.errors import ModelError, PromptError
from rushes.wire.jobs import SampleJob, VaeOptions
from rushes.wire.models import ModelSpec
from rushes_service.engine.engine import Engine
from rushes_service.models.hunyuan15.files import BUILD_PLANS
from rushes_service.models.hunyuan15.names import COMFYUI_NAMES, hunyuan15_names
from rushes_service.models.hunyuan15.text import AFTER, SYSTEM, HunyuanVideo15Text, glyph_text
from rushes_service.models.hunyuan15.tiny import transformer, vae
from rushes_service.models.hunyuan15.transformer import HunyuanVideo15Transformer
from rushes_service.models.hunyuan15.vae import decoded, tile_size
from rushes_service.models.loading.building import build
from rushes_service.models.loading.files.headers import read_header
from rushes_service.models.loading.files.rules import renaming
from rushes_service.models.loading.from_repo import ModelSource
from single_files_support import original_file

T2V, I2V = "hunyuan-video-1.5-t2v", "hunyuan-video-1.5-i2v"
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    directory = tmp_path_factory.mktemp("models")
    return {name: build_tiny(name, directory / name) for name in (T2V, I2V)}


def job(model: Path, name: str = T2V, **prompt: object) -> SampleJob:
    spec = ModelSpec(architecture=name, model=str(model))
    return make_job(model, None, **prompt).model_copy(update={"model": spec})


@pytest.mark.parametrize(
    ("prompt", "read"),
    [
        ("a shop", ""),
        ('a sign "OPEN"', 'Text "OPEN". '),
        (
            '“curly” and "straight" and "twice" and "twice"',
            'Text "straight". Text "twice". Text "twice". Text "curly". ',
        ),
        ('an inch " alone', ""),
    ],
)
def test_the_glyph_encoder_reads_what_is_quoted(prompt, read):
    assert glyph_text(prompt) == read


def test_the_points_of_the_system_prompt_are_separated_by_newlines():
    assert SYSTEM.startswith("<|im_start|>system\nYou are a helpful assistant. Describe the video by detailing")
    assert SYSTEM.endswith("transitions used in the video.<|im_end|>\n<|im_start|>user\n")
    assert [line[:2] for line in SYSTEM.split("\n")[2:7]] == ["1.", "2.", "3.", "4.", "5."]


def test_embeddings_have_a_row_for_each_token_after_the_system_prompt(models):
    encoder = HunyuanVideo15Text(ModelSource(models[T2V], None), CPU, torch.float32, glyph_dtype=torch.float32)
    words, model, *_ = encoder.loaded
    made = encoder.encode('a sign "OPEN"')
    whole = words(SYSTEM + 'a sign "OPEN"' + AFTER, return_tensors="pt")
    states = model(**whole, output_hidden_states=True).hidden_states[-3]
    cut = whole["input_ids"].shape[1] - made["embeds"].shape[1]
    assert words.decode(whole["input_ids"][0, :cut]) == SYSTEM
    assert torch.equal(made["embeds"], states[:, cut:])
    assert made["glyphs"].shape == (1, len('Text "OPEN". ') + 1, 16)
    assert encoder.encode("").keys() == made.keys()
    assert encoder.encode("")["glyphs"].shape == (1, 0, 16)
    encoder.free()


def test_attention_without_a_mask_is_diffusers_where_nothing_is_padded():
    model, inputs = transformer(image=True), torch.manual_seed(0)
    given = {
        "hidden_states": torch.randn(1, 17, 3, 4, 4, generator=inputs),
        "timestep": torch.tensor([321.0]),
        "encoder_hidden_states": torch.randn(1, 8, 32, generator=inputs),
        "encoder_attention_mask": torch.ones(1, 8),
        "encoder_hidden_states_2": torch.randn(1, 4, 16, generator=inputs),
        "encoder_attention_mask_2": torch.ones(1, 4),
        "image_embeds": torch.randn(1, 16, 16, generator=inputs),
        "return_dict": False,
    }
    with torch.no_grad():
        found = model(**given)[0]
        for block in model.transformer_blocks:
            block.attn.set_processor(HunyuanVideo15AttnProcessor2_0())
        wanted = model(**given)[0]
    assert (found - wanted).abs().max() < 1e-5


def test_names_of_the_release_of_comfyui_and_of_diffusers_mean_the_same_modules():
    table = hunyuan15_names(transformer(image=False))
    attention = [f"transformer_blocks.0.attn.{leaf}" for leaf in ("to_q", "to_k", "to_v")]
    for name in ("double_blocks_0_img_attn_qkv", "double_blocks.0.img_attn.qkv"):
        targets = table.find(name, flat="." not in name)
        assert [target.module for target in targets] == attention
        assert [target.rows for target in targets] == [(0, 32), (32, 64), (64, 96)]
    (split,) = table.find("double_blocks_0_img_attn_q", flat=True)
    assert split.module == attention[0]
    for name in ("double_blocks_0_img_mlp_fc1", "double_blocks_0_img_mlp_0"):
        assert table.find(name, flat=True)[0].module == "transformer_blocks.0.ff.net.0.proj"
    for name in ("double_blocks_0_txt_mod_linear", "double_blocks_0_txt_mod_lin"):
        assert table.find(name, flat=True)[0].module == "transformer_blocks.0.norm1_context.linear"


def test_comfyuis_file_with_fused_attention_is_the_same_transformer(models, tmp_path, monkeypatch):
    plan = BUILD_PLANS[0]
    monkeypatch.setattr("single_files_support.build_plans", lambda: {plan.class_name: fused})
    fused = type(plan)(plan.class_name, plan.derive, renaming(COMFYUI_NAMES))
    part = models[T2V] / "transformer"
    file = original_file(part, tmp_path / "dit.safetensors")
    assert "double_blocks.0.img_attn_qkv.weight" in load_file(file)
    made = build(read_header(file), HunyuanVideo15Transformer).state_dict()
    wanted = HunyuanVideo15Transformer.from_pretrained(part).state_dict()
    assert made.keys() == wanted.keys()
    assert all(torch.equal(made[name], wanted[name]) for name in made)


@pytest.mark.parametrize(
    ("options", "size"),
    [
        (VaeOptions(), 128),
        (VaeOptions(tiling=True), 128),
        (VaeOptions(spatial_tile_sample_min_size=256), 256),
        (VaeOptions(spatial_tile_sample_min_size=100), 64),
        (VaeOptions(spatial_tile_sample_min_size=16), 64),
        (VaeOptions(bulk_decode=True), None),
    ],
)
def test_tiles_are_of_128_pixels_unless_asked_otherwise(options, size):
    assert tile_size(options) == size


def test_tiles_are_off_again_afterwards_and_cover_the_picture():
    model, latents = vae(), torch.randn(1, 8, 2, 5, 9)
    whole = decoded(model, latents, VaeOptions(bulk_decode=True))
    tiled = decoded(model, latents, VaeOptions(spatial_tile_sample_min_size=64))
    assert whole.shape == tiled.shape == (1, 3, 5, 80, 144)
    assert not torch.equal(whole, tiled)
    assert not model.use_tiling


def test_odd_tiles_and_options_without_effect_are_warnings(models, tmp_path):
    wanted = job(models[T2V], frame_count=1).model_copy(
        update={"vae": VaeOptions(chunk_size=4, spatial_tile_sample_min_size=100)}
    )
    warnings = Engine("cpu", tmp_path).denoise(wanted, Recorder()).warnings
    assert any("--vae_chunk_size changes nothing" in warning for warning in warnings)
    assert any("tiles of 100 pixels are made 64" in warning for warning in warnings)


def test_the_start_image_counts(models, tmp_path):
    engine = Engine("cpu", tmp_path / "cache")
    first, second = (
        engine.denoise(job(models[I2V], I2V, image_path=str(picture(tmp_path / f"{seed}.png", seed))), Recorder())
        for seed in (0, 1)
    )
    assert (first.latents - second.latents).abs().max() > 0.01


def test_a_shift_of_zero_is_refused(models, tmp_path):
    with pytest.raises(PromptError, match="--fs 0 leaves nothing to denoise"):
        Engine("cpu", tmp_path).denoise(job(models[T2V], discrete_flow_shift=0.0), Recorder())


def test_another_models_file_is_refused_by_name(models, tmp_path):
    older = build_tiny("hunyuan-video", tmp_path / "older")
    file = original_file(older / "transformer", tmp_path / "dit.safetensors")
    spec = ModelSpec(architecture=T2V, model=str(models[T2V]), dit=str(file))
    with pytest.raises(
        ModelError, match=r"this is a HunyuanVideo or SkyReels transformer; --dit needs a HunyuanVideo 1\.5"
    ):
        Engine("cpu", tmp_path / "cache").denoise(job(models[T2V]).model_copy(update={"model": spec}), Recorder())


def test_a_file_of_this_model_is_told_from_the_older_ones(models, tmp_path):
    weights = {"double_blocks.0.img_attn_qkv.weight": torch.zeros(1), "byt5_in.fc1.weight": torch.zeros(1)}
    save_file(weights, tmp_path / "comfyui.safetensors")
    spec = ModelSpec(architecture="hunyuan-video", dit=str(tmp_path / "comfyui.safetensors"))
    with pytest.raises(ModelError, match=r"this is a HunyuanVideo 1\.5 transformer"):
        Engine("cpu", tmp_path / "cache").denoise(job(models[T2V]).model_copy(update={"model": spec}), Recorder())
