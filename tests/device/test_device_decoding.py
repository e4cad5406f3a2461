"""Every way to decode, on a pretended GPU."""

from __future__ import annotations

from collections.abc import Callable

import pytest


@pytest.mark.timeout(1800)
def test_ways_to_decode(run_cases: Callable[[str], None]) -> None:
    run_cases("test_decoding.py")
