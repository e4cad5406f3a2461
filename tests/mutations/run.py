"""How many small faults the tests notice: each is put into a copy of the tree, and its tests are run there.

    make mutate [ARGS="--only WORD --json FILE"]

Ends with 1 if a fault is not noticed, or its line is not there any more.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from mutations import MUTATIONS, Mutation

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("client", "service", "tests", "benchmarks", "pyproject.toml")
CAUGHT, SURVIVED, STALE, BROKEN = "caught", "SURVIVED", "OUT OF DATE", "TESTS FAIL ANYWAY"
LIMIT_S = 900
NOTHING_RAN = 5
"""pytest's exit code when it has found no test."""


def copy_tree(target: Path) -> None:
    """The parts of the tree that tests need."""
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info", ".pytest_cache")
    for part in PARTS:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, target / part, ignore=ignored)
        else:
            shutil.copy(ROOT / part, target / part)


@functools.cache
def sound(tests: tuple[str, ...], cases: str, tree: Path) -> bool:
    """True if the tests pass without any mutation: else they would notice nothing."""
    return not fails(tests, cases, tree)


def verdict(mutation: Mutation, tree: Path) -> str:
    """Whether the tests notice a mutation; the tree is as before afterwards."""
    place = tree / mutation.file
    before = place.read_text() if place.exists() else ""
    if before.count(mutation.old) != 1:
        return STALE
    if not sound(mutation.tests, mutation.cases, tree):
        return BROKEN
    place.write_text(before.replace(mutation.old, mutation.new))
    try:
        return CAUGHT if fails(mutation.tests, mutation.cases, tree) else SURVIVED
    finally:
        place.write_text(before)


def fails(tests: tuple[str, ...], cases: str, tree: Path) -> bool:
    """True if a test fails, or hangs."""
    paths = os.pathsep.join(str(tree / part) for part in ("client", "service", "tests"))
    built_once = {"PRETENDED_CUDA_BUILD": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    environment = {**os.environ, "PYTHONPATH": paths, **built_once}
    if cases:
        environment["DEVICE_ARGS"] = f"-k '{cases}'"
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *tests]
    try:
        done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, timeout=LIMIT_S, check=False)
    except subprocess.TimeoutExpired:
        return True
    if done.returncode == NOTHING_RAN or (done.returncode == 0 and b" passed" not in done.stdout):
        raise SystemExit(f"{' '.join(tests)} {cases}: no tests")
    return done.returncode != 0


def main() -> None:
    """Try all mutations and print how each fared."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="only mutations with this in their name or file")
    parser.add_argument("--json", type=Path, help="write the verdicts to this file")
    options = parser.parse_args()
    chosen = [each for each in MUTATIONS if options.only in f"{each.name} {each.file}"]
    verdicts: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="mutations-") as directory:
        copy_tree(Path(directory))
        for mutation in chosen:
            start = time.monotonic()
            verdicts[mutation.name] = verdict(mutation, Path(directory))
            sys.stdout.write(f"{verdicts[mutation.name]:17} {mutation.name} ({time.monotonic() - start:.0f} s)\n")
            sys.stdout.flush()
    caught = list(verdicts.values()).count(CAUGHT)
    sys.stdout.write(f"{caught} of {len(verdicts)} caught\n")
    if options.json is not None:
        options.json.write_text(json.dumps(verdicts, indent=1) + "\n")
    raise SystemExit(caught != len(verdicts))


if __name__ == "__main__":
    main()
