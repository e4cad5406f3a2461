"""Every benchmark runs, briefly. How fast things are is no matter for a test; what must hold exactly is."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from forked_support import Forked

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

from harness import Spread, percentile, ratios  # noqa: E402 - found by the line above

ALWAYS_ZERO = {"samples lost after the outage", "samples lost", "streamed frames that differ from the full decode"}


@pytest.mark.parametrize(
    ("name", "rounds"),
    [
        ("submit_stall", 1),
        ("queue_latency", 2),
        ("decode_memory", 1),
        ("decode_encode", 1),
        ("load_model", 1),
        ("fleet", 2),
        ("two_workers", 1),  # these start workers in every round
        ("overlap", 1),
        ("first_result", 1),
        ("new_prompts", 1),
        ("small_batches", 1),
    ],
)
def test_a_quick_run_reports_every_figure_with_its_spread(name: str, rounds: int, tmp_path: Path) -> None:
    result, log = tmp_path / "result.json", tmp_path / "log"
    flags = ["--quick", "--rounds", str(rounds), "--json", str(result)]
    done = Forked(str(BENCHMARKS / f"{name}.py"), flags, os.environ, log).wait()
    assert done == 0, log.read_text()
    report = json.loads(result.read_text())
    assert report["benchmark"] == name
    assert any(row["goal"] is not None for row in report["rows"])
    for row in report["rows"]:
        value = row["value"]
        assert value["low"] <= value["median"] <= value["high"]
        assert row["name"] in log.read_text()
        assert row["name"] not in ALWAYS_ZERO or value["high"] == 0


def test_a_ratio_is_taken_within_each_round() -> None:
    rounds = [{"ours": [1.0, 2.0, 9.0], "floor": [4.0]}, {"ours": [30.0], "floor": [20.0, 10.0, 20.0]}]
    assert ratios(rounds, "ours", "floor") == [0.5, 1.5]


def test_a_percentile_is_one_of_the_values() -> None:
    assert percentile(range(1, 101), 0.99) == 99
    assert percentile([5.0], 0.99) == 5.0


def test_a_spread_is_the_median_between_the_extremes() -> None:
    assert Spread.of([3.0, 1.0, 2.0]) == Spread(2.0, 1.0, 3.0)
