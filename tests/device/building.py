"""Building the pretended CUDA backend, in a process that does not use it."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

SOURCES = Path(__file__).parent / "backend"
LIBRARY = "PRETENDED_CUDA"
"""Environment variable with the built library. It marks a process that may be taken over."""


def build(directory: Path) -> Path:
    """Build the backend below `directory`, unless it is there, for this PyTorch.

    Raises:
        subprocess.CalledProcessError: the compiler's complaint is in `stderr`.
    """
    import torch

    sources = b"".join(path.read_bytes() for path in sorted(SOURCES.iterdir()))
    version = hashlib.sha256(sources + torch.__version__.encode()).hexdigest()[:12]
    library = directory / f"pretended-{version}.so"
    if library.exists():
        return library
    home = Path(torch.__file__).parent
    include = [f"-I{home / 'include'}", f"-I{home / 'include/torch/csrc/api/include'}"]
    link = [f"-L{home / 'lib'}", "-lc10", "-ltorch", "-ltorch_cpu", f"-Wl,-rpath,{home / 'lib'}"]
    made = library.with_suffix(f".{os.getpid()}")
    command = ["g++", "-std=c++20", "-O1", "-fPIC", "-shared", "-w", *include, str(SOURCES / "operators.cpp")]
    subprocess.run([*command, "-o", str(made), *link], check=True, capture_output=True, text=True)
    made.replace(library)
    return library


def why_not() -> str | None:
    """Why the backend cannot be built on this machine; None if it can."""
    if sys.platform != "linux":
        return "the pretended CUDA backend is built on Linux only"
    if shutil.which("g++") is None:
        return "the pretended CUDA backend needs g++"
    import torch

    if torch.backends.cuda.is_built():
        return "the pretended CUDA backend needs a PyTorch without CUDA"
    return None
