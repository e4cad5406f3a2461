"""Letters on contact sheets."""

from __future__ import annotations

import logging

import pytest

from rushes_service.sheets import typefaces
from rushes_service.sheets.typefaces import face_for, faces, has

NOWHERE = "\U00013000"
"""A hieroglyph, which none of the faces has."""


def test_plain_text_looks_the_same_on_every_machine() -> None:
    assert face_for("a red ball, 64x64 · seed 5…", 16) is faces(16)[0]


def test_letters_that_pillows_face_lacks_are_drawn_by_the_systems() -> None:
    text = "eine Füchsin, Ελλάδα"
    if not any(all(has(face, letter) for letter in text) for face in faces(16)):
        pytest.skip("this machine has no such typeface")
    assert not has(faces(16)[0], "ü")
    assert all(has(face_for(text, 16), letter) for letter in text)


def test_what_cannot_be_drawn_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    typefaces.tell.cache_clear()
    with caplog.at_level(logging.WARNING, logger="rushes.sheets"):
        for _ in range(2):
            face_for(f"a {NOWHERE}", 16)
    assert [record.message for record in caplog.records] == [
        f"no typeface of this machine has {NOWHERE}: boxes are drawn instead; install Noto Sans CJK, say"
    ]
