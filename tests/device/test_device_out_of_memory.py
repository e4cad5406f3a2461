"""Memory that runs out at any allocation of any stage, on a pretended GPU."""

from __future__ import annotations

from collections.abc import Callable

import pytest


@pytest.mark.timeout(1800)
def test_memory_that_runs_out(run_cases: Callable[[str], None]) -> None:
    run_cases("test_out_of_memory.py")
