"""What tests with real workers share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import Workers, workers


@pytest.fixture
def pool(redis_url: str, tmp_path: Path) -> Iterator[Workers]:
    """Workers on this test's Redis."""
    with workers(redis_url, tmp_path) as pool:
        yield pool
