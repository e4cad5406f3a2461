"""The kit for a real GPU, its branches for CUDA on the pretended one; how fast anything is means nothing here."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks" / "gpu"))

import families
import memory
import worker
from full_models import FULL_MODELS
from full_size import FullSize
from kit import Kit

WAN = "wan2.1-t2v"
CHECKS = {
    "machine": worker.machine,
    "noise": worker.noise,
    "cancel": worker.cancelling,
    "decode beside": worker.beside,
    "decoding": worker.decoding,
    "beyond 32 bits": memory.beyond_32_bits,
    "fallbacks": partial(memory.fallbacks, family="hunyuan-video", size=160, frames=5),
    "flat": partial(memory.flat, samples=8),
    "loras": partial(families.loras, family=WAN),
    "offloaded": partial(families.offloaded, family=WAN),
    "float8": partial(families.float8, family=WAN),
    "pinned copies": partial(families.pinned_copies, family=WAN),
}


@pytest.fixture
def kit(tmp_path: Path) -> Kit:
    return Kit(tmp_path, budget_s=10_000, small=True, lines=tmp_path / "lines.jsonl")


@pytest.mark.parametrize("name", CHECKS)
def test_a_check_passes(kit: Kit, name: str) -> None:
    kit.check(name, partial(CHECKS[name], kit))
    assert kit.rows[0]["ok"] is True, kit.rows[0]


@pytest.mark.parametrize("name", ["wan 1.3B", "flux"])
def test_a_model_of_full_size_in_small_goes_through_all_its_checks(kit: Kit, name: str) -> None:
    full = FullSize(kit, FULL_MODELS[name])
    for what, work in full.checks().items():
        kit.check(what, work)
    full.close()
    assert [row["check"] for row in kit.rows if row["ok"] is not True] == [], kit.rows


def test_a_check_that_fails_is_a_line_and_no_end(kit: Kit) -> None:
    def broken() -> Any:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    kit.check("broken", broken)
    kit.check("late", lambda: {}, needs_s=1e6)
    kit.check("fine", lambda: {"ok": True})
    assert [row["ok"] for row in kit.rows] == [False, None, True]
    assert "illegal memory access" in kit.rows[0]["error"]
    assert kit.summary()["failed"] == ["broken"]
    assert kit.lines is not None
    assert len(kit.lines.read_text().splitlines()) == 3
