"""What a GPU worker goes through in its life, on a pretended GPU."""

from __future__ import annotations

from collections.abc import Callable

import pytest


@pytest.mark.timeout(1800)
def test_the_life_of_a_worker(run_cases: Callable[[str], None]) -> None:
    run_cases("test_worker_life.py")
