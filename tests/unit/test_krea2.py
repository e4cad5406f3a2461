"""What is special about Krea 2."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from family_support import tiny_model_spec, tiny_options
from golden_support import sample
from rushes.errors import ModelError, PromptError
from rushes.families.parameters import resolve
from rushes.families.table import ARCHITECTURES
from rushes.wire.jobs import Prompt
from rushes.wire.models import ModelSpec
from rushes_service.engine.engine import DenoisedSample, Engine
from rushes_service.models.llm.qwen3_vl import Krea2Text
from rushes_service.models.llm.tiny import QWEN3_VL_WIDTH
from rushes_service.models.loading.from_repo import ModelSource
from single_files_support import with_config

KREA2 = ARCHITECTURES["krea2"]
SUFFIX = 5
"""Tokens behind the text: the end of the user's turn and the beginning of the assistant's."""


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("krea2")


def drawn(model: ModelSpec, directory: Path, **options: Any) -> DenoisedSample:
    asked = {**tiny_options(KREA2, directory), **options}
    return sample(Engine("cpu", directory / "cache"), model, Prompt(prompt="a red ball", **asked))


@pytest.mark.parametrize(("asked", "made"), [(8, 16), (40, 48), (47, 48), (48, 48), (55, 48), (56, 64)])
def test_sizes_are_rounded_down_to_8_and_then_up_to_16(asked: int, made: int) -> None:
    parameters, warnings = resolve(Prompt(prompt="a", width=asked), KREA2)
    assert parameters.width == made
    way = "up" if made > asked else "down"
    told = () if asked == made else (f"--w {asked} rounded {way} to {made} (krea2 needs multiples of 16)",)
    assert warnings == told


def test_a_size_below_8_is_an_error() -> None:
    with pytest.raises(PromptError, match="--w 7 is too small: krea2 needs at least 8 pixels"):
        resolve(Prompt(prompt="a", width=7), KREA2)


def test_a_shift_and_embedded_guidance_are_ignored_and_said_to_be() -> None:
    _, warnings = resolve(Prompt(prompt="a", discrete_flow_shift=3.0, guidance_scale=7.0), KREA2)
    assert set(warnings) == {"--fs is ignored by krea2", "--g is ignored by krea2"}


def test_raw_without_guidance_is_a_warning(directory: Path) -> None:
    model = tiny_model_spec("krea2", directory)
    assert any("add --n and --l 5.5" in warning for warning in drawn(model, directory).warnings)
    assert drawn(model, directory, negative_prompt="ugly").warnings == ()


def test_turbo_has_a_schedule_of_its_own_by_its_version_or_by_its_directory(directory: Path, tmp_path: Path) -> None:
    raw = tiny_model_spec("krea2", directory)
    turbo = raw.model_copy(update={"model_version": "turbo"})
    found = tiny_model_spec("krea2", tmp_path)
    index = Path(str(found.model)) / "model_index.json"
    index.write_text(json.dumps({**json.loads(index.read_text()), "is_distilled": True}))
    sigmas = [drawn(model, directory).facts()["sigmas"] for model in (raw, turbo, found)]
    assert sigmas[0] != sigmas[1] == sigmas[2]
    assert drawn(turbo, directory, sample_steps=8).warnings == ()
    assert any("--l 1 --s 8" in warning for warning in drawn(turbo, directory, sample_steps=7).warnings)
    guided = drawn(turbo, directory, sample_steps=8, negative_prompt="ugly")
    assert any("--l 1 --s 8" in warning for warning in guided.warnings)


def test_a_texts_embedding_is_that_of_its_tokens_without_padding(directory: Path) -> None:
    source = ModelSource(Path(str(tiny_model_spec("krea2", directory).model)), None)
    encoder = Krea2Text(source, torch.device("cpu"), torch.float32)
    text = "a red ball"
    found = encoder.encode(text)["embeds"]
    assert found.shape == (len(text) + SUFFIX, 12, QWEN3_VL_WIDTH)
    pipe = encoder.loaded
    words = AutoTokenizer.from_pretrained(source.component("tokenizer"))
    whole = f"{pipe.prompt_template_encode_prefix}{text}{pipe.prompt_template_encode_suffix}"
    with torch.no_grad():
        states = pipe.text_encoder(**words(whole, return_tensors="pt"), output_hidden_states=True).hidden_states
    wanted = torch.stack([states[index] for index in range(2, 36, 3)], dim=2)[0, 34:]
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


def test_an_encoder_in_float8_is_another_and_cached_apart(directory: Path) -> None:
    model = tiny_model_spec("krea2", directory)
    plain, rounded = (drawn(each, directory).latents for each in (model, model.model_copy(update={"fp8_vl": True})))
    assert 0 < float((plain - rounded).abs().max()) < 1


@pytest.mark.parametrize("own", [("model.", "visual."), ("model.language_model.", "model.visual.")])
def test_encoders_in_comfyuis_and_in_qwens_names_are_the_same(
    own: tuple[str, str], directory: Path, tmp_path: Path
) -> None:
    model = tiny_model_spec("krea2", directory)
    part = Path(str(model.model)) / "text_encoder"
    (weights,) = part.glob("*.safetensors")
    words, eyes = own
    renamed = {
        name.replace("language_model.", words, 1) if name.startswith("language_model.") else f"{eyes}{name[7:]}": tensor
        for name, tensor in load_file(weights).items()
    }
    save_file(renamed, tmp_path / "qwen.safetensors")
    config = json.loads((part / "config.json").read_text())
    file = with_config(tmp_path / "qwen.safetensors", "Qwen3VLModel", config)
    given = model.model_copy(update={"text_encoder": str(file)})
    assert float((drawn(given, directory).latents - drawn(model, directory).latents).abs().max()) <= 1e-5


def test_a_modulation_in_one_row_is_read_and_one_of_another_length_refused(directory: Path, tmp_path: Path) -> None:
    model = tiny_model_spec("krea2", directory)
    (weights,) = (Path(str(model.model)) / "transformer").glob("*.safetensors")
    config = json.loads((weights.parent / "config.json").read_text())
    table = "transformer_blocks.0.scale_shift_table"
    stored = load_file(weights)
    flat = {**stored, table: stored[table].flatten()}
    save_file(flat, tmp_path / "dit.safetensors")
    file = with_config(tmp_path / "dit.safetensors", "Krea2Transformer2DModel", config)
    given = model.model_copy(update={"dit": str(file)})
    assert float((drawn(given, directory).latents - drawn(model, directory).latents).abs().max()) <= 1e-5
    save_file({**flat, table: flat[table][1:].clone()}, file)
    with pytest.raises(ModelError, match=r"scale_shift_table has the shape \[191\]"):
        drawn(given, directory)
