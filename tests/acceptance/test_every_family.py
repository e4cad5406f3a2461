"""Every family in the table, with tiny weights and no network, through a real worker process."""

from __future__ import annotations

from pathlib import Path

from PIL import Image
from processes import Workers

from family_support import CLIP_FRAMES, FAMILIES, makes_clips, makes_pictures, tiny_model_spec, tiny_options
from queue_support import make_job
from rushes.client.client import Client
from rushes.families.table import ARCHITECTURES
from rushes.wire.jobs import SampleJob
from rushes.wire.results import JobState, SampleResult
from rushes_service.media.receipts import read_receipt
from rushes_service.models.registry import SAMPLERS
from rushes_service.models.tiny import BUILDERS

ALL_S = 300.0
MP4_MARK = b"ftyp"


def wanted(tmp_path: Path) -> dict[tuple[str, str], SampleJob]:
    """A picture and a clip of every family that makes them, by family and media type."""
    jobs = {}
    for name in FAMILIES:
        spec, model = ARCHITECTURES[name], tiny_model_spec(name, tmp_path / "models")
        kinds = {"image/png": 1} if makes_pictures(spec) else {}
        kinds |= {"video/mp4": CLIP_FRAMES} if makes_clips(spec) else {}
        for index, (kind, frames) in enumerate(kinds.items()):
            options = tiny_options(spec, tmp_path / "inputs" / name, frames)
            jobs[name, kind] = make_job(run=name, model=model, output_dir=tmp_path / name, index=index, **options)
    return jobs


def problem(result: SampleResult, kind: str) -> str | None:
    """What is wrong with a sample; None if nothing is."""
    if result.state is not JobState.DONE or result.path is None or result.receipt is None:
        return f"{result.state.value}: {result.error}"
    if result.media_type != kind:
        return f"is {result.media_type}"
    path = Path(result.path)
    if kind == "image/png":
        with Image.open(path) as image:
            whole = image.size == (result.width, result.height) and len(image.convert("RGB").getcolors(10**6) or []) > 1
    else:
        whole = path.read_bytes()[4:8] == MP4_MARK and (result.frame_count or 0) > 1
    receipt = read_receipt(Path(result.receipt))
    if receipt["model"]["architecture"] != result.run:
        return f"its receipt names {receipt['model']['architecture']}"
    return None if whole else f"{path} is not what the result says"


def test_a_worker_makes_a_picture_and_a_clip_of_every_family(client: Client, pool: Workers, tmp_path: Path) -> None:
    jobs = wanted(tmp_path)
    client.submit(list(jobs.values()))
    assert pool.start("--until-empty").wait(ALL_S) == 0
    results = {asked: client.get(job.id).result for asked, job in jobs.items()}
    problems = {asked: problem(found, asked[1]) if found else "no result" for asked, found in results.items()}
    assert {asked: text for asked, text in problems.items() if text} == {}
    assert "Traceback" not in pool.logs()


def test_every_family_has_a_sampler_and_a_tiny_model() -> None:
    assert set(FAMILIES) == set(ARCHITECTURES) == set(SAMPLERS) == set(BUILDERS)
