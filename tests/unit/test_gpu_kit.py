"""`make gpu` where there is no GPU: it says what it lacks, runs what a CPU can, and skips the rest with a reason."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

RUN = Path(__file__).parents[2] / "benchmarks" / "gpu" / "run.py"


def lines_of(*arguments: str) -> list[dict[str, Any]]:
    done = subprocess.run([sys.executable, str(RUN), *arguments], capture_output=True, text=True, check=False)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert found, done.stderr
    return found


def test_a_check_without_a_gpu_runs_on_the_cpu_or_says_why_not(tmp_path: Path) -> None:
    *rows, summary = lines_of("--small", "--only", "ca", "--json", str(tmp_path / "lines.jsonl"))
    assert {row["check"]: row["ok"] for row in rows} == {"cancel": True}
    assert (summary["passed"], summary["failed"]) == (1, [])
    assert len((tmp_path / "lines.jsonl").read_text().splitlines()) == 1
    *rows, _ = lines_of("--small", "--only", "fallbacks wan")
    assert [(row["ok"], row["skipped"]) for row in rows] == [(None, "no GPU")]


def test_no_check_begins_after_the_time_is_up() -> None:
    *rows, summary = lines_of("--small", "--only", "cancel", "--budget", "0")
    assert rows[0]["ok"] is None
    assert "left" in rows[0]["skipped"]
    assert summary["skipped"] == 1


def test_a_folder_without_wheels_is_told_what_belongs_there(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(RUN), "--wheels", str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert f"{tmp_path} has no wheels" in done.stderr
