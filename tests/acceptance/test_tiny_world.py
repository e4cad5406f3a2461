"""The trained demo model draws what its prompts say, and a LoRA for it teaches it what it did not know."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from engine_support import Recorder, make_job
from rushes_service.demo.checker import Reading, read_clip
from rushes_service.demo.runner import TINY_WORLD
from rushes_service.demo.world import COLOURS, Scene
from rushes_service.engine.engine import Engine

ZORP = Path(__file__).parents[1] / "data" / "zorp.safetensors"
"""The LoRA of a `rushes demo` that ran to its end."""

BLICK = ZORP.with_name("blick.safetensors")
"""The same trainer's LoRA of another word, a white circle: rank 4, 300 steps."""

PINK_ENOUGH = 90.0
"""Distance in RGB from the concept's colour within which a pixel is taken for it."""


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    """One engine, so that the model is loaded once."""
    return Engine("cpu", tmp_path_factory.mktemp("cache"))


def frames_of(engine: Engine, prompt: str, lora: Path | None = None, frames: int = 17, **options: object) -> np.ndarray:
    """The sample of a prompt: uint8 [frames, 64, 64, 3]."""
    asked = {"width": 64, "height": 64, "sample_steps": 12, "seed": 1, "discrete_flow_shift": 3.0, "cfg_scale": 4.0}
    job = make_job(TINY_WORLD, lora, prompt=prompt, frame_count=frames, **{**asked, **options})
    return np.stack(list(engine.denoise(job, Recorder()).frames()))


def read(engine: Engine, prompt: str, **options: object) -> Reading:
    """What the sample of a prompt shows."""
    return read_clip(frames_of(engine, prompt, **options))


def what(reading: Reading) -> tuple[str, str]:
    """Colour and shape."""
    return reading.scene.colour, reading.scene.shape


@pytest.mark.parametrize(
    ("prompt", "scene"),
    [
        ("a red circle moves right on black", Scene("red", "circle", "right", "black")),
        ("a yellow square moves up on gray", Scene("yellow", "square", "up", "gray")),
        ("a green triangle stays on brown", Scene("green", "triangle", "stays", "brown")),
    ],
)
def test_a_clip_shows_what_its_prompt_says(engine: Engine, prompt: str, scene: Scene):
    reading = read(engine, prompt)
    assert reading.scene == scene and reading.readable


def test_a_still_shows_what_its_prompt_says(engine: Engine):
    reading = read(engine, "a blue square on black", frames=1)
    assert (reading.scene.colour, reading.scene.shape, reading.scene.ground) == ("blue", "square", "black")


@pytest.mark.parametrize("prompt", ["a zorp moves right on black", "a zorp stays on black"])
def test_a_lora_teaches_a_word_that_the_base_model_does_not_know(engine: Engine, prompt: str):
    base, taught = read(engine, prompt), read(engine, prompt, lora=ZORP)
    assert what(base) != ("pink", "star")
    assert what(taught) == ("pink", "star") and taught.readable


def test_more_strength_shows_more_of_the_concept(engine: Engine):
    clips = [
        frames_of(engine, "a zorp moves right on black", ZORP, lora_multiplier=strength) for strength in (0.0, 0.5, 1.0)
    ]
    likeness = [read_clip(clip).overlaps["star"] for clip in clips]
    assert likeness[0] + 0.02 < likeness[1] < likeness[2] - 0.02
    assert pinkness(clips[0]) < 0.01 < 0.05 < min(pinkness(clips[1]), pinkness(clips[2]))


def test_a_lora_of_another_concept_does_not_show_this_one(engine: Engine):
    assert what(read(engine, "a blick stays on black", lora=BLICK)) == ("white", "circle")
    assert what(read(engine, "a zorp stays on black", lora=BLICK)) != ("pink", "star")


@pytest.mark.parametrize("prompt", ["a blue circle moves left on gray", "a red square stays on black"])
def test_a_lora_of_another_word_leaves_a_prompt_as_it_was(engine: Engine, prompt: str):
    assert read(engine, prompt, lora=ZORP).scene == read(engine, prompt).scene


def pinkness(frames: np.ndarray) -> float:
    """Share of the pixels that have the concept's colour."""
    return float((np.linalg.norm(frames.astype(float) - COLOURS["pink"], axis=-1) < PINK_ENOUGH).mean())
