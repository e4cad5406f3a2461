"""Contact sheets as files."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from rushes.errors import OutputError
from rushes_service.sheets.drawing import write_png
from rushes_service.sheets.picking import Picked


def test_a_full_disk_leaves_the_picture_of_yesterday(tmp_path: Path) -> None:
    png = tmp_path / "a.png"
    png.write_bytes(b"yesterday's")
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, unlimited[1]))
    try:
        with pytest.raises(OutputError, match="cannot be written: File too large"):
            write_png(Picked("cut", [], [], {}), {}, png)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("a.png", b"yesterday's")]
