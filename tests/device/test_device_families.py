"""Every family, precision, adapter and way to decode, on a pretended GPU."""

from __future__ import annotations

from collections.abc import Callable

import pytest


@pytest.mark.timeout(1800)
def test_families(run_cases: Callable[..., None]) -> None:
    run_cases("test_families.py")
