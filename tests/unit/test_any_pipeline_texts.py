"""LoRAs of text encoders: merged as diffusers merges them, and their embeddings kept apart from all others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import load_file, save_file

from golden_support import sample
from pipeline_support import TEXT, bare, drawn, pixels, spec_of
from rushes.errors import LoraError
from rushes.wire.jobs import Prompt
from rushes_service.engine.engine import Engine
from rushes_service.models.generic.tiny import build

ASKED = {"width": 32, "height": 32, "num_inference_steps": 2}
OPTIONS = {"width": 32, "height": 32, "sample_steps": 2}
KOHYA = {"text_encoder": "te1", "text_encoder_2": "te2", "unet": "unet"}
LEAVES = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2", "q", "o")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("pipelines")
    for name in ("sdxl", "flux"):
        build(name, directory / name)
    return directory


def written(module: str) -> str:
    """A module of CLIP or T5 as files have it."""
    return f"text_model.{module}" if module.startswith("encoder.layers") else module


def write_texts(path: Path, model: Path, *, style: str = "diffusers", seed: int = 0, unet: bool = False) -> Path:
    """A LoRA of every text encoder, in diffusers' names or in kohya's with an alpha of its own."""
    pipe = DiffusionPipeline.from_pretrained(model)
    random, tensors = torch.Generator().manual_seed(seed), {}
    parts = [name for name in pipe.components if name.startswith("text_encoder")]
    for part in [*parts, *(["unet"] if unet else [])]:
        leaves = ("to_q",) if part == "unet" else LEAVES
        for name, module in getattr(pipe, part).named_modules():
            if not isinstance(module, torch.nn.Linear) or name.rpartition(".")[2] not in leaves:
                continue
            rows, columns = module.weight.shape
            down, up = torch.randn(4, columns, generator=random) * 0.2, torch.randn(rows, 4, generator=random) * 0.2
            if style == "diffusers":
                begin = f"{part}.{written(name)}"
                tensors |= {f"{begin}.lora_A.weight": down, f"{begin}.lora_B.weight": up}
            else:
                begin = f"lora_{KOHYA[part]}_{written(name).replace('.', '_')}"
                tensors |= {f"{begin}.lora_down.weight": down, f"{begin}.lora_up.weight": up}
                tensors[f"{begin}.alpha"] = torch.tensor(2.0)
    save_file(tensors, path)
    return path


def only(path: Path, beginning: str) -> Path:
    """A copy of a file with the keys that begin so."""
    to = path.with_name(f"{beginning}{path.name}")
    save_file({key: tensor for key, tensor in load_file(path).items() if key.startswith(beginning)}, to)
    return to


@pytest.mark.parametrize(("name", "style"), [("sdxl", "diffusers"), ("sdxl", "kohya"), ("flux", "diffusers")])
def test_a_lora_of_text_encoders_makes_what_diffusers_makes_of_it(name, style, models, tmp_path):
    path = write_texts(tmp_path / "lora.safetensors", models / name, style=style, unet=name == "sdxl")
    if name == "flux":
        path = only(path, "text_encoder.")  # diffusers merges into the first encoder alone
    found = drawn(models / name, tmp_path / "cache", path, **OPTIONS)
    wanted = bare(models / name, path, fuse=name != "flux", **ASKED)
    assert (wanted - bare(models / name, **ASKED)).abs().max() > 1e-3
    assert torch.allclose(pixels(found), wanted, rtol=0, atol=1e-5)
    assert found.facts()["lora"]["unmatched"] == 0
    assert found.facts()["lora"]["text_encoders"][0] == "text_encoder"


def test_the_third_text_encoder_of_kohya_is_t5_wherever_the_pipeline_has_it(models, tmp_path):
    dotted = only(write_texts(tmp_path / "lora.safetensors", models / "flux"), "text_encoder_2.")
    tensors = {}
    for key, tensor in load_file(dotted).items():
        name, _, end = key.removeprefix("text_encoder_2.").rpartition(".lora_")
        half = {"A.weight": "lora_down.weight", "B.weight": "lora_up.weight"}[end]
        tensors[f"lora_te3_{name.replace('.', '_')}.{half}"] = tensor
    save_file(tensors, tmp_path / "kohya.safetensors")
    found = pixels(drawn(models / "flux", tmp_path / "cache", tmp_path / "kohya.safetensors", **OPTIONS))
    assert torch.equal(found, pixels(drawn(models / "flux", tmp_path / "cache", dotted, **OPTIONS)))
    assert not torch.equal(found, bare(models / "flux", **ASKED))


def test_embeddings_of_one_lora_never_serve_another_one_or_the_base_model(models, tmp_path):
    loras = [None, *(write_texts(tmp_path / f"{seed}.safetensors", models / "sdxl", seed=seed) for seed in (1, 2))]
    wanted = [pixels(drawn(models / "sdxl", tmp_path / f"cache{i}", lora, **OPTIONS)) for i, lora in enumerate(loras)]
    assert not torch.equal(wanted[0], wanted[1])
    assert not torch.equal(wanted[1], wanted[2])
    engine = Engine("cpu", tmp_path / "cache")
    prompt = Prompt(prompt=TEXT, seed=5, **OPTIONS)
    for index in (0, 1, 2, 0, 2, 1):
        found = pixels(sample(engine, spec_of(models / "sdxl"), prompt, loras[index]))
        assert torch.equal(found, wanted[index])
    weaker = Prompt(prompt=TEXT, seed=5, lora_multiplier=0.5, **OPTIONS)
    assert not torch.equal(pixels(sample(engine, spec_of(models / "sdxl"), weaker, loras[1])), wanted[1])
    none = Prompt(prompt=TEXT, seed=5, lora_multiplier=0.0, **OPTIONS)
    assert torch.equal(pixels(sample(engine, spec_of(models / "sdxl"), none, loras[1])), wanted[0])


def test_scales_of_text_encoders_are_their_own(models, tmp_path):
    """diffusers states rank and alpha of each model apart (`lora_adapter_metadata`)."""
    tensors = load_file(write_texts(tmp_path / "plain.safetensors", models / "sdxl", unet=True))
    says = {"unet.r": 4, "unet.lora_alpha": 2, "text_encoder.r": 4, "text_encoder.lora_alpha": 8}
    save_file(tensors, tmp_path / "stated.safetensors", metadata={"lora_adapter_metadata": json.dumps(says)})
    scales = {"unet": 0.5, "text_encoder": 2.0, "text_encoder_2": 1.0}
    for key in tensors:
        if ".lora_B." in key:
            tensors[key] = tensors[key] * scales[key.partition(".")[0]]
    save_file(tensors, tmp_path / "scaled.safetensors")
    found, wanted = (
        pixels(drawn(models / "sdxl", tmp_path / "cache", tmp_path / f"{name}.safetensors", **OPTIONS))
        for name in ("stated", "scaled")
    )
    assert torch.allclose(found, wanted, rtol=0, atol=1e-6)


def test_a_module_that_the_encoder_has_not_or_another_size_of_it_is_refused(models, tmp_path):
    for name, shape in (("layers.9.mlp.fc1", 4), ("layers.0.mlp.fc1", 5)):
        key = f"text_encoder.text_model.encoder.{name}"
        tensors = {f"{key}.lora_A.weight": torch.ones(4, shape), f"{key}.lora_B.weight": torch.ones(shape, 4)}
        save_file(tensors, tmp_path / "lora.safetensors")
        with pytest.raises(LoraError, match="text_encoder"):
            drawn(models / "sdxl", tmp_path / "cache", tmp_path / "lora.safetensors", **OPTIONS)
