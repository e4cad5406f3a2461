"""The documentation names what exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rushes.cli import main as cli
from rushes_service.settings import Settings

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")])
SETTING_ROW = re.compile(r"^\| `(RUSHES_\w+)` \| (.+?) \| .+ \|$", re.MULTILINE)


@pytest.fixture
def clean_home(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("XDG_CACHE_HOME", "XDG_STATE_HOME", *(f"RUSHES_{name.upper()}" for name in Settings.model_fields)):
        monkeypatch.delenv(variable, raising=False)


@pytest.mark.usefixtures("clean_home")
def test_configuration_lists_every_setting_with_its_default() -> None:
    rows = dict(SETTING_ROW.findall((ROOT / "docs" / "configuration.md").read_text()))
    settings = Settings()
    assert list(rows) == [f"RUSHES_{name.upper()}" for name in Settings.model_fields]
    for name in Settings.model_fields:
        assert rows[f"RUSHES_{name.upper()}"] == written(getattr(settings, name)), name


def written(value: object) -> str:
    """A default as the table writes it."""
    if value in (None, ()):
        return "none"
    if value == (Path.cwd(),):
        return "the working directory"
    return f"`{str(value).replace(str(Path.home()), '~')}`"


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_in_the_text_exist(page: Path) -> None:
    text = page.read_text()
    commands = set(re.findall(r"(?:`|^    |^)rushes ([a-z]\w*)", text, re.MULTILINE))
    assert commands <= set(cli.LIGHT) | set(cli.HEAVY)
    targets = set(re.findall(r"^\w[\w-]*(?=:.*## )", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:`|^    )make ([a-z-]+)", text, re.MULTILINE)) <= targets


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_variables_in_the_text_exist(page: Path) -> None:
    known = {f"RUSHES_{name.upper()}" for name in Settings.model_fields} | {"RUSHES_MUSUBI_TUNER"}  # asks for a test
    known |= set(re.findall(r"^(RUSHES_\w+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))
    assert set(re.findall(r"\bRUSHES_[A-Z_]*[A-Z]\b", page.read_text())) <= known


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_that_the_text_names_exist(page: Path) -> None:
    for name in re.findall(r"`((?:client|service|tests|benchmarks|docker)/[\w./-]+\.\w+)`", page.read_text()):
        assert "NAME" in name or (ROOT / name).is_file(), name


def test_files_that_the_page_about_new_families_names_exist() -> None:
    text = (ROOT / "docs" / "adding-a-model.md").read_text()
    inner = set(re.findall(r"`(wan\d*/[\w./]+)`", text))
    assert len(inner) > 5
    assert [path for path in inner if not (ROOT / "service/rushes_service/models" / path).exists()] == []
