"""Every family in every precision, with every kind of adapter, on a pretended GPU."""

from __future__ import annotations

from collections.abc import Callable

import pytest


@pytest.mark.timeout(1800)
def test_weights_and_adapters(run_cases: Callable[[str], None]) -> None:
    run_cases("test_adapters.py")
