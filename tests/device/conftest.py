"""Cases for a GPU, run in processes of their own on a pretended one: this process keeps its PyTorch as it is.

The backend replaces what PyTorch knows of CUDA, for the whole process and for good. So each test here starts pytest
anew on files of `cases/`, which nothing else collects.
"""

from __future__ import annotations

import fcntl
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from building import LIBRARY, build, why_not

NOTHING_CHOSEN = 5
"""pytest's exit code when it has found no test."""

BUILD_DIRECTORY = "PRETENDED_CUDA_BUILD"
"""Environment variable with a directory in which builds are kept from one session to the next."""

CASES = Path(__file__).parent / "cases"
collect_ignore = [] if LIBRARY in os.environ else ["cases"]

Runner = Callable[..., None]


@pytest.fixture(scope="session")
def pretended_cuda(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The backend, built once for all processes of this session. With CI=true a machine without g++ is a failure."""
    reason = why_not()
    if reason is not None:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(reason)
    shared = tmp_path_factory.getbasetemp()
    if BUILD_DIRECTORY in os.environ:
        shared = Path(os.environ[BUILD_DIRECTORY])
    elif "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    with (shared / "pretended-cuda.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return build(shared)


@pytest.fixture
def run_cases(pretended_cuda: Path, tmp_path: Path) -> Runner:
    """Run files of `cases/` in one process; the test fails, with pytest's own words, if one of their cases does.

    It is skipped where `DEVICE_ARGS` choose none of them.
    """

    def run(*names: str) -> None:
        clean = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-p", "no:cacheprovider"]
        command += [
            *(str(CASES / name) for name in names),
            "--durations",
            "5",
            "--basetemp",
            str(tmp_path / "cases"),
            *shlex.split(os.environ.get("DEVICE_ARGS", "")),
        ]
        environment = {**clean, LIBRARY: str(pretended_cuda), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        sys.stdout.write(done.stdout[-20_000:])
        if done.returncode == NOTHING_CHOSEN and os.environ.get("DEVICE_ARGS"):
            pytest.skip(f"{', '.join(names)}: DEVICE_ARGS choose no case")
        if done.returncode:
            pytest.fail(
                f"{', '.join(names)}: cases failed\n{done.stdout[-12_000:]}\n{done.stderr[-2_000:]}", pytrace=False
            )

    return run
