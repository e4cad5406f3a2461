"""What holds for every family: the same request makes the same file, and what a family needs is asked for."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine_support import Recorder
from family_support import CLIP_FRAMES, FAMILIES, makes_clips, tiny_model_spec, tiny_options
from queue_support import make_job
from rushes.errors import ArchitectureError, PromptError
from rushes.families.prompt_options import OPTION_OF_FIELD, PATH_FIELDS
from rushes.families.table import ARCHITECTURES
from rushes.wire.models import ModelSpec
from rushes_service.engine.engine import Engine
from rushes_service.media.writing import write_media

pytestmark = pytest.mark.usefixtures("small_control_images")

ROOT = Path(__file__).parents[2]
PACKAGES = (ROOT / "client" / "rushes", ROOT / "service" / "rushes_service")
WHERE_NAMES_MAY_DECIDE = ROOT / "service" / "rushes_service" / "models"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


def media(engine: Engine, model: ModelSpec, options: dict[str, Any], directory: Path) -> bytes:
    """The file that `engine` makes; its receipt, which tells the time taken, left empty."""
    denoised = engine.denoise(make_job(model=model, **options), Recorder())
    frames = denoised.parameters.frame_count
    written = write_media(
        denoised.frames(),
        directory / ("sample.png" if frames == 1 else "sample.mp4"),
        job_id="0" * 32,
        frame_count=frames,
        fps=denoised.parameters.fps,
        receipt=dict,
        guard=lambda: None,
    )
    return written.path.read_bytes()


@pytest.mark.parametrize("name", FAMILIES)
def test_the_same_seed_makes_the_same_file_with_and_without_cached_conditioning(name, models, tmp_path):
    spec = ARCHITECTURES[name]
    options = tiny_options(spec, tmp_path, CLIP_FRAMES if makes_clips(spec) else 1)
    model, engine = tiny_model_spec(name, models), Engine("cpu", tmp_path / "cache")
    first = media(engine, model, options, tmp_path / "first")
    assert list((tmp_path / "cache").rglob("*.safetensors"))
    assert media(engine, model, options, tmp_path / "again") == first
    assert media(Engine("cpu", tmp_path / "empty"), model, options, tmp_path / "uncached") == first
    assert media(engine, model, {**options, "seed": 4}, tmp_path / "other") != first


@pytest.mark.parametrize("name", FAMILIES)
def test_a_missing_input_is_named_before_anything_is_loaded(name, tmp_path):
    spec = ARCHITECTURES[name]
    nowhere = ModelSpec(architecture=name, model=str(tmp_path / "no-model"))
    for field in spec.requires:
        options = {key: value for key, value in tiny_options(spec, tmp_path).items() if key != field}
        with pytest.raises(ArchitectureError, match=OPTION_OF_FIELD[field]):
            Engine("cpu", tmp_path / "cache").denoise(make_job(model=nowhere, **options), Recorder())


INPUTS = [
    (name, field)
    for name in FAMILIES
    for field in sorted(ARCHITECTURES[name].requires | ARCHITECTURES[name].uses)
    if field in PATH_FIELDS
]


@pytest.mark.parametrize("wrong", ["not there", "no picture", "empty"])
@pytest.mark.parametrize(("name", "field"), INPUTS)
def test_an_unreadable_input_is_named_before_anything_is_loaded(name, field, wrong, tmp_path):
    path = tmp_path / "wrong.png"
    if wrong != "not there":
        path.write_text("only words" if wrong == "no picture" else "")
    options = tiny_options(ARCHITECTURES[name], tmp_path)
    options[field] = (str(path),) if isinstance(options.get(field), tuple) else str(path)
    nowhere = ModelSpec(architecture=name, model=str(tmp_path / "no-model"))
    with pytest.raises(PromptError, match=f"{OPTION_OF_FIELD[field]}.*wrong.png"):
        Engine("cpu", tmp_path / "cache").denoise(make_job(model=nowhere, **options), Recorder())


def test_no_family_is_told_from_another_by_name_outside_its_own_room():
    found = {
        f"{file.relative_to(ROOT)}:{line}"
        for package in PACKAGES
        for file in package.rglob("*.py")
        if WHERE_NAMES_MAY_DECIDE not in file.parents
        for line in comparisons(ast.parse(file.read_text()))
    }
    assert found == set()


def comparisons(tree: ast.AST) -> Iterator[int]:
    """Lines that compare something with a family's name, or match against one."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            operands: list[ast.AST] = [node.left, *node.comparators]
        elif isinstance(node, ast.MatchValue):
            operands = [node.value]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in PARTIAL:
            operands = list(node.args)
        else:
            continue
        if any(names_family(part) for operand in operands for part in ast.walk(operand)):
            yield node.lineno


PARTIAL = ("startswith", "endswith", "removeprefix")
SYSTEMS = tuple(sorted({name.split("-")[0] for name in ARCHITECTURES} - {"diffusers"}))
"""What families' names begin with: "wan2.1", "framepack" and so on; `diffusers` is a library and a format, too."""


def names_family(node: ast.AST) -> bool:
    """True for a string that is, or begins as, a family's name."""
    return isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith(SYSTEMS)


@pytest.mark.parametrize(
    "code",
    [
        'if name == "wan2.1-t2v": pass',
        'if model.architecture in ("framepack", "flux1-kontext"): pass',
        'if name.startswith("wan2.1"): pass',
        'match name:\n    case "hunyuan-video": pass',
    ],
)
def test_such_a_comparison_would_be_found(code):
    assert list(comparisons(ast.parse(code)))
