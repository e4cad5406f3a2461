"""Workflow files call what the Makefile and `.ci/run` offer, and nothing of their own."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]


def commands() -> list[str]:
    """What the steps of all workflows run."""
    found = []
    for file in (ROOT / ".github" / "workflows").glob("*.yml"):
        for job in yaml.safe_load(file.read_text())["jobs"].values():
            found += [step["run"] for step in job["steps"] if "run" in step]
    return found


def test_workflows_run_make_targets_that_exist() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for command in commands():
        assert command == "bash .ci/run" or command.removeprefix("make ") in targets, command


def test_pre_commit_runs_what_make_check_runs() -> None:
    [repository] = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert [hook["entry"] for hook in repository["hooks"]] == ["make check"]
