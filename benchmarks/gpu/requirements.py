"""What the kit needs beside Python and PyTorch, and how it gets that on a machine without a network.

This file needs nothing itself.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

NEEDED: Mapping[str, str] = {
    "torch": "torch",
    "diffusers": "diffusers",
    "transformers": "transformers",
    "accelerate": "accelerate",
    "safetensors": "safetensors",
    "importlib_metadata": "importlib-metadata",
    "zipp": "zipp",
    "numpy": "numpy",
    "PIL": "pillow",
    "cv2": "opencv-python-headless",
    "psutil": "psutil",
    "pydantic": "pydantic",
    "pydantic_core": "pydantic-core",
    "annotated_types": "annotated-types",
    "typing_inspection": "typing-inspection",
    "redis": "redis",
    "ftfy": "ftfy",
    "wcwidth": "wcwidth",
}
"""Module -> the distribution that has it. Of each, one wheel: what they need in turn is in this list, or with torch."""

SITE = "site"
WITHOUT_NETWORK = ("--no-index", "--no-deps", "--no-compile", "--quiet", "--disable-pip-version-check")


def missing() -> list[str]:
    """Distributions that are needed and not there."""
    return [name for module, name in NEEDED.items() if importlib.util.find_spec(module) is None]


def install(wheels: Path, home: Path) -> Path:
    """Install all wheels of a folder below `home`, and return what is to be on Python's path.

    Raises:
        SystemExit: pip refuses; it has said why.
    """
    files = sorted(str(path) for path in wheels.glob("*.whl"))
    if not files:
        raise SystemExit(f"{wheels} has no wheels; wanted are those of: {', '.join(missing())}")
    target = home / SITE
    command = [sys.executable, "-m", "pip", "install", *WITHOUT_NETWORK, "--upgrade", "--target", str(target), *files]
    if subprocess.run(command, check=False).returncode:
        raise SystemExit("the wheels cannot be installed")
    return target


def advice(names: Sequence[str]) -> str:
    """How to get wheels on another machine."""
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    options = f"--no-deps --only-binary=:all: --python-version {python} --platform manylinux2014_x86_64"
    return (
        f"on a machine with a network: pip download {options} -d wheels {' '.join(names)}; then make gpu WHEELS=wheels"
    )
