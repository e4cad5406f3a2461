"""Imports run one way, and a check says so when they do not."""

from __future__ import annotations

from pathlib import Path

import layers
import pytest


def test_the_rooms_are_in_order() -> None:
    assert layers.faults() == []


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """Two rooms of one package: `rushes.wire` and `rushes.client`, which may import it."""
    for name in ("wire", "client"):
        (tmp_path / "rushes" / name).mkdir(parents=True)
        (tmp_path / "rushes" / name / "__init__.py").touch()
    (tmp_path / "rushes" / "client" / "client.py").write_text("from rushes.wire import jobs\n")
    (tmp_path / "rushes" / "wire" / "jobs.py").touch()
    return tmp_path


def test_an_import_downwards_is_no_fault(package: Path) -> None:
    assert layers.faults([package]) == []


@pytest.mark.parametrize(
    "statement", ["from rushes.client import client", "def late():\n    import rushes.client.client"]
)
def test_an_import_upwards_is_named(package: Path, statement: str) -> None:
    (package / "rushes" / "wire" / "keys.py").write_text(statement)
    assert layers.faults([package]) == ["rushes.wire.keys imports rushes.client.client"]


def test_a_circle_is_named(package: Path) -> None:
    (package / "rushes" / "wire" / "jobs.py").write_text("from rushes.wire import keys\n")
    (package / "rushes" / "wire" / "keys.py").write_text("from rushes.wire import jobs\n")
    assert layers.faults([package]) == ["circle: rushes.wire.jobs -> rushes.wire.keys"]


def test_a_crowded_folder_is_named(package: Path) -> None:
    for number in range(14):
        (package / "rushes" / "wire" / f"m{number}.py").touch()
    assert layers.faults([package]) == [f"{package}/rushes/wire holds 15 modules"]


def test_a_module_outside_all_rooms_is_named(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "module.py").touch()
    with pytest.raises(LookupError, match=r"elsewhere\.module lies in no room"):
        layers.faults([tmp_path])
