"""What is special about Qwen-Image-Layered, and about pictures with transparency on their way to people."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from family_support import tiny_model_spec, tiny_options
from golden_support import sample
from rushes.errors import ModelError, PromptError
from rushes.families.parameters import resolve
from rushes.families.table import ARCHITECTURES
from rushes.wire.jobs import Prompt
from rushes.wire.models import ModelSpec
from rushes_service.api.background.thumbnails import shrink
from rushes_service.engine.engine import Engine
from rushes_service.media.health import Health
from rushes_service.media.writing import write_media
from rushes_service.sheets.frames import read_frames

LAYERED = ARCHITECTURES["qwen-image-layered"]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("layered")


def made(model: ModelSpec, directory: Path, **options: Any) -> Any:
    asked = {"prompt": "a red ball", **tiny_options(LAYERED, directory), **options}
    return sample(Engine("cpu", directory / "cache"), model, Prompt(**asked))


@pytest.mark.parametrize(("asked", "layers"), [(None, 2), (1, 2), (4, 5)])
def test_frames_are_layers_and_one_more(asked: int | None, layers: int) -> None:
    parameters, warnings = resolve(Prompt(prompt="a", frame_count=asked, control_image_path=("a.png",)), LAYERED)
    assert (parameters.layers, parameters.frame_count, warnings) == (layers, 1, ())


def test_layers_lie_below_each_other_in_one_file_with_transparency(directory: Path, tmp_path: Path) -> None:
    denoised = made(tiny_model_spec(LAYERED.name, directory), directory, frame_count=2, width=48, height=32)
    assert denoised.latents.shape == (3, 16, 1, 4, 6)
    options = {"job_id": "0" * 32, "frame_count": 1, "fps": 1, "receipt": dict, "guard": lambda: None}
    written = write_media(denoised.frames(), tmp_path / "sample.png", **options)
    assert (written.width, written.height) == (48, 3 * 32)
    with Image.open(written.path) as image:
        assert image.mode == "RGBA"
        assert len(set(np.asarray(image)[..., 3].flatten())) > 1


def test_the_control_images_transparency_is_shown_to_the_model(directory: Path, tmp_path: Path) -> None:
    model, pictures = tiny_model_spec(LAYERED.name, directory), []
    for alpha in (255, 60):
        path = tmp_path / f"{alpha}.png"
        Image.new("RGBA", (64, 64), (200, 30, 30, alpha)).save(path)
        pictures.append(made(model, directory, control_image_path=(str(path),)).latents)
    assert float((pictures[0] - pictures[1]).abs().max()) > 1e-3


def test_an_empty_text_is_refused(tmp_path: Path) -> None:
    nowhere = ModelSpec(architecture=LAYERED.name, model=str(tmp_path / "no-model"))
    with pytest.raises(PromptError, match="needs a text that describes the picture"):
        made(nowhere, tmp_path, prompt=" ")


@pytest.mark.parametrize(
    ("family", "part", "message"),
    [
        ("qwen-image-layered", "transformer", "is no Qwen-Image-Layered: it makes opaque pictures"),
        ("qwen-image-layered", "vae", "is a VAE of 3 channels; Qwen-Image-Layered has one of its own, of 4"),
        ("qwen-image", "transformer", "is Qwen-Image-Layered: say --architecture qwen-image-layered"),
    ],
)
def test_parts_of_the_other_family_are_refused(
    family: str, part: str, message: str, directory: Path, tmp_path: Path
) -> None:
    own, other = (
        Path(str(tiny_model_spec(name, directory).model))
        for name in (family, "qwen-image" if family == LAYERED.name else LAYERED.name)
    )
    (tmp_path / "mixed").mkdir()
    for entry in own.iterdir():
        (tmp_path / "mixed" / entry.name).symlink_to(other / part if entry.name == part else entry)
    model = ModelSpec(architecture=family, model=str(tmp_path / "mixed"))
    asked = Prompt(prompt="a red ball", **tiny_options(ARCHITECTURES[family], directory))
    with pytest.raises(ModelError, match=message):
        sample(Engine("cpu", tmp_path / "cache"), model, asked)


CLEAR_AND_RED = np.zeros((32, 48, 4), np.uint8)
CLEAR_AND_RED[16:] = (200, 30, 30, 255)
"""The upper half is transparent, and black where nobody sees it."""


def test_health_looks_at_what_is_seen_of_a_transparent_picture() -> None:
    for pixels, flags in ((CLEAR_AND_RED, ()), (np.zeros_like(CLEAR_AND_RED), ("constant",))):
        health = Health()
        list(health.watch(iter([pixels])))
        assert health.flags() == flags


def test_a_thumbnail_keeps_transparency_and_a_sheet_shows_white_behind_it(tmp_path: Path) -> None:
    Image.fromarray(CLEAR_AND_RED).save(tmp_path / "sample.png")
    shrink(tmp_path / "sample.png", 160, tmp_path / "still.webp")
    with Image.open(tmp_path / "still.webp") as still:
        assert still.mode == "RGBA"
        assert still.getpixel((5, 5))[3] == 0
    (frame,) = read_frames(tmp_path / "sample.png", 160)
    assert frame[5, 5].tolist() == [255, 255, 255]
    assert frame[25, 5].tolist() == [200, 30, 30]
