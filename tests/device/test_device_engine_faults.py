"""What only shows where a GPU is: streams, moves, precisions and waits of the engine, on a pretended one."""

from __future__ import annotations

from collections.abc import Callable

import pytest


@pytest.mark.timeout(1800)
def test_the_engine_on_a_card(run_cases: Callable[[str], None]) -> None:
    run_cases("test_engine_faults.py")
