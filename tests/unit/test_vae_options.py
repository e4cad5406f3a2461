"""`--vae_dtype`: the precision that pictures are encoded and decoded in, and what ids and messages say of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from family_support import tiny_model_spec, tiny_options
from golden_support import sample
from rushes.errors import ConfigError
from rushes.families.table import ARCHITECTURES
from rushes.training.flags import model_from_args
from rushes.wire.jobs import Prompt
from rushes.wire.models import ModelSpec
from rushes_service.engine.engine import Engine


@pytest.mark.parametrize("family", ["wan2.1-i2v", "framepack", "hunyuan-video-1.5-i2v", "qwen-image-edit"])
def test_pictures_are_encoded_and_decoded_in_the_precision_that_is_asked_for(family: str, tmp_path: Path) -> None:
    engine, spec = Engine("cpu", tmp_path / "cache"), ARCHITECTURES[family]
    usual = tiny_model_spec(family, tmp_path)
    prompt = Prompt(prompt="a ball", **tiny_options(spec, tmp_path, None if spec.image_only else 5))
    made = {}
    for model in (usual, usual.model_copy(update={"vae_dtype": "bfloat16"})):
        denoised = sample(engine, model, prompt)
        made[denoised.facts()["vae_dtype"]] = torch.cat(list(denoised.pixels()), dim=1)
    assert made.keys() == {"float32", "bfloat16"}
    assert {pixels.dtype for pixels in made.values()} == {torch.float32}
    assert 0 < (made["float32"] - made["bfloat16"]).abs().mean() < 0.03


def test_a_pipeline_that_decides_by_itself_says_so(tmp_path: Path) -> None:
    model = tiny_model_spec("diffusers", tmp_path).model_copy(update={"vae_dtype": "float16"})
    prompt = Prompt(prompt="a ball", **tiny_options(ARCHITECTURES["diffusers"], tmp_path))
    assert any("--vae_dtype is ignored" in text for text in sample(Engine("cpu", tmp_path), model, prompt).warnings)


@pytest.mark.parametrize("name", ["bf16", "bfloat16", torch.bfloat16])
def test_trainers_names_of_a_precision_are_understood(name: object) -> None:
    assert model_from_args({"vae_dtype": name}, "wan2.1-t2v", "m").vae_dtype == "bfloat16"


def test_a_precision_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"--vae_dtype.*float32"):
        model_from_args({"vae_dtype": "fp4"}, "wan2.1-t2v", "m")


def test_it_is_a_part_of_what_a_sample_is_only_where_it_is_given() -> None:
    plain = ModelSpec(architecture="wan2.1-t2v", model="m")
    assert "vae_dtype" not in plain.encode()
    assert plain.model_copy(update={"vae_dtype": "float16"}).fingerprint != plain.fingerprint
