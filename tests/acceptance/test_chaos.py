"""Thirty seconds of chaos; `make chaos` runs five minutes of it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from chaos import Chaos

SECONDS = 25
SEED = 20_240_607


@pytest.mark.timeout(600)
def test_nothing_is_lost_and_nothing_made_twice_whatever_breaks(tmp_path: Path) -> None:
    report = Chaos(tmp_path, SEED).run(SECONDS)
    assert report.problems == []
    assert report.states["done"] > 50
