"""Every family samples from single files with encoders and all, as it does from a diffusers directory."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from family_support import CLIP_FRAMES, FAMILIES, tiny_model_spec, tiny_options
from golden_support import sample
from rushes.errors import ModelError
from rushes.families.table import ARCHITECTURES
from rushes.wire.jobs import Prompt
from rushes.wire.models import ModelSpec
from rushes_service.engine.engine import Engine
from single_files_support import align, original_files

pytestmark = pytest.mark.usefixtures("small_control_images")

FROM_DIRECTORY = {"hunyuan-video-i2v": ("text_encoder1",)}
"""Parts that no single file gives: Llava with its eyes is published as a directory."""


@pytest.mark.parametrize("name", [name for name in FAMILIES if ARCHITECTURES[name].files])
def test_single_files_with_encoders_make_the_same_frames(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    align(monkeypatch)
    spec = ARCHITECTURES[name]
    model = tiny_model_spec(name, tmp_path)
    directory = Path(str(model.model))
    files = original_files(spec, directory, tmp_path / "files")
    assert {file.flag for file in spec.files} - set(files) == set(FROM_DIRECTORY.get(name, ()))
    rest = str(directory) if name in FROM_DIRECTORY else None
    single = model.model_copy(update={"model": rest, **files})
    prompt = Prompt(prompt="a red ball", **tiny_options(spec, tmp_path, None if spec.image_only else CLIP_FRAMES))
    pixels = [
        torch.cat(list(sample(Engine("cpu", tmp_path / f"cache{number}"), each, prompt).pixels()), dim=1)
        for number, each in enumerate((model, single))
    ]
    assert torch.equal(*pixels)


def test_with_a_full_cache_a_new_worker_samples_without_the_text_encoders_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    align(monkeypatch)
    spec = ARCHITECTURES["wan2.1-t2v"]
    directory = Path(str(tiny_model_spec(spec.name, tmp_path).model))
    files = original_files(spec, directory, tmp_path / "files")
    single = ModelSpec(architecture=spec.name, model=str(directory), **files)
    options = tiny_options(spec, tmp_path, CLIP_FRAMES)

    def made(model: ModelSpec, text: str = "a red ball") -> tuple[torch.Tensor, str]:
        """Pixels and warnings of a worker that has just been started."""
        denoised = sample(Engine("cpu", tmp_path / "cache"), model, Prompt(prompt=text, **options))
        return torch.cat(list(denoised.pixels()), dim=1), " ".join(denoised.warnings)

    for model, encoder in (
        (single, Path(files["t5"])),
        (ModelSpec(architecture=spec.name, model=str(directory)), directory / "text_encoder" / "model.safetensors"),
    ):
        wanted, warnings = made(model)
        assert "is gone" not in warnings
        kept = encoder.rename(tmp_path / "kept")
        pixels, warnings = made(model)
        assert torch.equal(pixels, wanted)
        assert f"{encoder if model is single else encoder.parent} is gone" in warnings
        with pytest.raises(ModelError, match="t5 .* no such file" if model is single else "cannot be loaded"):
            made(model, "a text that nobody has encoded")
        kept.rename(encoder)
        os.utime(encoder, ns=(1, 1))  # another file than was known: looked at, and nothing said
        assert "is gone" not in made(model)[1]


def test_a_directory_that_lacks_weights_is_an_error_and_no_random_encoder(tmp_path: Path) -> None:
    spec = ARCHITECTURES["z-image"]
    model = tiny_model_spec(spec.name, tmp_path)
    weights = Path(str(model.model)) / "text_encoder" / "model.safetensors"
    whole = load_file(weights)
    save_file(
        {name: tensor for name, tensor in whole.items() if ".layers.1." not in f".{name}"}, weights, {"format": "pt"}
    )
    prompt = Prompt(prompt="a red ball", **tiny_options(spec, tmp_path))
    with pytest.raises(ModelError, match=r"text_encoder lacks 11 weights of a Qwen3 \(layers\.1\..*: it is incomplete"):
        sample(Engine("cpu", tmp_path / "cache"), model, prompt)
