"""The client stays light, whatever it is used for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HEAVY = ("torch", "diffusers", "transformers", "safetensors", "numpy", "fastapi", "rich", "rushes_service")

USE = f"""
import sys
import rushes
from rushes.cli import main as cli
from rushes.cli import jobs, prompts, submit, track, watch
rushes.resolve(rushes.parse_line("a cat --w 64"), rushes.architecture("wan2.1-t2v"))
rushes.Client("redis://127.0.0.1:1/0")
loaded = [name for name in {HEAVY} if name in sys.modules]
assert not loaded, loaded
"""


def test_importing_and_using_the_client_loads_nothing_heavy() -> None:
    subprocess.run([sys.executable, "-c", USE], check=True)


def test_the_public_names_are_all_there() -> None:
    import rushes

    assert all(hasattr(rushes, name) for name in rushes.__all__)
    assert len(set(rushes.__all__)) == len(rushes.__all__)


def test_nothing_but_keys_formats_a_key() -> None:
    import rushes

    root = Path(rushes.__file__).parents[2]
    offenders = [
        str(path.relative_to(root))
        for package in ("client", "service")
        for path in (root / package).rglob("*.py")
        if path.name != "keys.py" and "{rushes}" in path.read_text(encoding="utf-8")
    ]
    assert offenders == []
