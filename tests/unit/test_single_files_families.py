"""Every family samples from single files with encoders and all, as it does from a diffusers directory."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from family_support import CLIP_FRAMES, FAMILIES, tiny_model_spec, tiny_options
from golden_support import sample
from rushes.architectures import ARCHITECTURES
from rushes.jobs import Prompt
from rushes_service.engine import Engine
from single_files_support import align, original_files

FROM_DIRECTORY = {"hunyuan-video-i2v": ("text_encoder1",)}
"""Parts that no single file gives: Llava with its eyes is published as a directory."""


@pytest.mark.parametrize("name", FAMILIES)
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
    prompt = Prompt(prompt="a red ball", **tiny_options(spec, tmp_path, None if spec.stills else CLIP_FRAMES))
    pixels = [
        torch.cat(list(sample(Engine("cpu", tmp_path / f"cache{number}"), each, prompt).pixels()), dim=1)
        for number, each in enumerate((model, single))
    ]
    assert torch.equal(*pixels)
