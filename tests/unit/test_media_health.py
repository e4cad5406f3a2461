"""Pictures that nobody would want are flagged while they are written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rushes_service.media.health import Health
from rushes_service.media.receipts import read_receipt
from rushes_service.media.writing import write_media

NOISE = np.random.default_rng(0).integers(20, 235, (5, 64, 96, 3), dtype=np.uint8)


def flags_of(frames: np.ndarray) -> tuple[str, ...]:
    health = Health()
    assert len(list(health.watch(iter(frames)))) == len(frames)
    return health.flags()


@pytest.mark.parametrize(
    ("frames", "flags"),
    [
        (np.zeros((5, 64, 96, 3), np.uint8), ("black",)),
        (np.full((5, 64, 96, 3), 127, np.uint8), ("constant",)),
        (np.where(NOISE > 128, 255, 0).astype(np.uint8), ("saturated",)),
        (NOISE[[0, 0, 0, 0]], ("still",)),
        (NOISE[:1], ()),
        (NOISE, ()),
    ],
)
def test_what_looks_wrong_is_named(frames: np.ndarray, flags: tuple[str, ...]) -> None:
    assert flags_of(frames) == flags


def test_a_dark_night_with_one_lamp_is_not_black() -> None:
    night = np.zeros((1, 64, 96, 3), np.uint8)
    night[0, 20:24, 30:34] = 200

    assert "black" not in flags_of(night)


def test_a_drawing_on_white_paper_is_not_saturated() -> None:
    drawing = np.full((1, 64, 96, 3), 255, np.uint8)
    drawing[0, :, ::3] = 40

    assert flags_of(drawing) == ()


def test_a_large_frame_is_thinned_evenly() -> None:
    frame = np.zeros((1, 2160, 3840, 3), np.uint8)
    frame[0, 1080:1200, 1920:2040] = 255

    assert flags_of(frame) == ("saturated",)


def test_the_receipt_and_the_result_name_it(tmp_path: Path) -> None:
    written = write_media(
        iter(np.zeros((1, 64, 64, 3), np.uint8)),
        tmp_path / "a.png",
        job_id="a",
        frame_count=1,
        fps=16,
        receipt=lambda: {"id": "a"},
        guard=lambda: None,
    )

    assert written.health == ("black",)
    assert read_receipt(written.path)["health"] == ["black"]
