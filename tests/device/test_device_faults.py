"""Memory that runs out anywhere, streams, moves and waits of the engine, a worker's life, the kit for a real GPU.

One process for all of them: each has to import PyTorch and the families first, which takes it some ten seconds.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest


@pytest.mark.timeout(1800)
def test_faults(run_cases: Callable[..., None]) -> None:
    run_cases("test_out_of_memory.py", "test_engine_faults.py", "test_worker_life.py", "test_gpu_kit.py")
