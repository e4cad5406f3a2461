"""The kit for a real GPU, on a pretended one."""

from __future__ import annotations

from collections.abc import Callable

import pytest


@pytest.mark.timeout(1800)
def test_the_kit(run_cases: Callable[[str], None]) -> None:
    run_cases("test_gpu_kit.py")
