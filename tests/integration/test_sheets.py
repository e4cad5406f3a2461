"""`rushes export`, `rushes grid` and `rushes import`: a run taken out of the gallery, and brought back into it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image

from gallery_support import Scene, finish, paint_run
from rushes.cli import main as cli
from rushes.client.client import Client
from rushes.wire import keys
from rushes.wire.jobs import SampleJob
from rushes.wire.results import Drift, JobState
from rushes_service.catalogue import grid_of
from rushes_service.catalogue.about import mark
from rushes_service.processes.embedded_redis import EmbeddedRedis
from rushes_service.ranking.contenders import read_field
from rushes_service.ranking.votes import Side, Vote, VoteStore
from rushes_service.sheets import contact_sheet as sheet
from rushes_service.sheets.folder import medium

STEPS = (0, 100, 200, 300)
PROMPTS = ("a boat & <b>waves</b>", "a balloon")


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    with EmbeddedRedis(tmp_path / "valkey", 0) as server:
        client = Client(server.url)
        yield client
        client.close()


@pytest.fixture
def jobs(client: Client, tmp_path: Path) -> list[SampleJob]:
    return paint_run(client, "cut", tmp_path / "out", STEPS, prompts=PROMPTS)


def rushes(client: Client, *arguments: str | Path) -> int:
    return cli.main([*map(str, arguments), "--redis-url", str(client.url)])


@pytest.mark.usefixtures("jobs")
def test_a_run_becomes_a_folder_that_needs_nothing_else(client: Client, tmp_path: Path) -> None:
    folder = tmp_path / "page"
    assert rushes(client, "export", "cut", "--html", folder) == 0

    page = (folder / "index.html").read_text()
    media = re.findall(r'src="(media/[^"]+)"', page)
    assert len(media) == len(STEPS) * len(PROMPTS) == len(list((folder / "media").iterdir()))
    assert all((folder / name).is_file() for name in media)
    assert len(list((folder / "receipts").iterdir())) == len(media)
    assert "a boat &amp; &lt;b&gt;waves&lt;/b&gt;" in page
    assert "http" not in re.sub(r"http-equiv", "", page)
    assert page.index("base model") < page.index("step 100") < page.index("step 300")


@pytest.mark.usefixtures("jobs")
def test_a_run_becomes_one_picture_and_one_film(client: Client, tmp_path: Path) -> None:
    png, mp4 = tmp_path / "a.png", tmp_path / "a.mp4"
    assert rushes(client, "grid", "cut", "--png", png, "--mp4", mp4) == 0

    with Image.open(png) as picture:
        size = picture.size
    reader = imageio_ffmpeg.read_frames(str(mp4))
    about = next(reader)
    assert sum(1 for _ in reader) == 5
    assert about["fps"] == 12
    assert abs(about["size"][0] - size[0]) <= 1


@pytest.mark.parametrize("prompt", ["a boat on a wide river at dawn " * 30, "b" * 2000, "雪" * 500])
def test_a_long_prompt_stays_in_its_place(prompt: str) -> None:
    frames = [np.full((68, 120, 3), 90, np.uint8)]

    def drawn(first: str) -> Image.Image:
        rows = [sheet.Row(text, "17 frames", [frames]) for text in (first, "a balloon")]
        return sheet.contact_sheet(rows, [sheet.Column("step 100", "note " * 50)], title="cut " * 50, footer="")

    right = sheet.MARGIN + sheet.LABEL_WIDTH
    page, plain = drawn(prompt), drawn("a boat")
    second = (0, page.height // 2 + 40, right, page.height)
    assert page.crop(second).tobytes() == plain.crop(second).tobytes(), "the prompt below is covered"
    beside = (right - 20, 0, right, page.height)
    assert page.crop(beside).tobytes() == plain.crop(beside).tobytes(), "it runs into the pictures"


def test_a_name_that_means_something_in_addresses_is_still_found() -> None:
    assert 'src="media/50%25%20%231%3F.mp4"' in medium("50% #1?.mp4", "")


@pytest.mark.usefixtures("jobs")
def test_more_checkpoints_than_fit_are_thinned_and_the_last_one_stays(client: Client, tmp_path: Path) -> None:
    folder = tmp_path / "page"
    assert rushes(client, "export", "cut", "--html", folder, "--columns", "3") == 0
    heads = re.findall(r"<th class=\"[^\"]*\">(base model|step \d+)", (folder / "index.html").read_text())
    assert heads[0] == "base model"
    assert heads[-1] == "step 300"
    assert len(heads) == 3


def test_favourites_alone_can_be_kept(client: Client, jobs: list[SampleJob], tmp_path: Path) -> None:
    assert rushes(client, "export", "cut", "--html", tmp_path / "page", "--favourites") == cli.EXIT_FAILED
    mark(client, "cut", jobs[3].id, favourite=True)
    assert rushes(client, "export", "cut", "--html", tmp_path / "page", "--favourites") == 0
    assert len(list((tmp_path / "page" / "media").iterdir())) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["grid", "nothing", "--png", "a.png"], "no samples of a run 'nothing'"),
        (["grid", "nothing"], "--png FILE, --mp4 FILE"),
        (["export", "nothing", "--html", "a"], "rushes jobs list"),
        (["import", "/nowhere"], "there is no such directory"),
    ],
)
def test_what_cannot_be_is_one_sentence(
    client: Client, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert rushes(client, *arguments) != 0
    errors = capsys.readouterr().err
    assert re.search(words, errors)
    assert errors.count("\n") == 1


def test_a_gallery_is_rebuilt_from_receipts_alone(client: Client, jobs: list[SampleJob], tmp_path: Path) -> None:
    before = grid_of(client, "cut")
    client.redis.flushdb()
    assert rushes(client, "import", tmp_path / "out") == 0

    after = grid_of(client, "cut")
    assert [row.prompt for row in after.rows] == [row.prompt for row in before.rows]
    assert [column.key for column in after.columns] == [column.key for column in before.columns]
    assert {cell.id for cell in after.cells} == {job.id for job in jobs}
    record = client.get(jobs[2].id)
    assert record.state is JobState.DONE
    assert record.result is not None
    assert (record.result.width, record.result.frame_count, record.result.seed) == (96, 5, 42)
    assert client.redis.ttl("{rushes}:job:" + jobs[2].id) > 0


@pytest.mark.usefixtures("jobs")
def test_importing_twice_changes_nothing(client: Client, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert rushes(client, "import", tmp_path / "out") == 0
    assert "0 samples imported, 8 were known already; runs: cut" in capsys.readouterr().out


def test_samples_that_a_trainer_made_itself_are_known_by_their_names(client: Client, tmp_path: Path) -> None:
    folder = tmp_path / "kohya" / "sample"
    folder.mkdir(parents=True)
    names = [
        "cat_000000_00_20260101000000_7.png",
        "cat_000100_00_20260101000100_7.png",
        "cat_e000002_01_20260101000200.png",
    ]
    for name in [*names, "holiday.png"]:
        Image.new("RGB", (32, 32), "green").save(folder / name)
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a cat --d 7\na dog\n")
    assert rushes(client, "import", tmp_path / "kohya", "--run", "old", "--prompts", prompts) == 0

    grid = grid_of(client, "old")
    assert [row.prompt for row in grid.rows] == ["a cat", "a dog"]
    assert [(column.base, column.step, column.epoch) for column in grid.columns] == [
        (True, 0, None),
        (False, 2, 2),
        (False, 100, None),
    ]
    assert len(grid.cells) == 3


def test_a_broken_receipt_is_said_and_left_out(
    client: Client, jobs: list[SampleJob], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    receipts = sorted((tmp_path / "out" / "sample").glob("*.json"))
    receipts[0].write_text("{")
    receipts[1].write_text(json.dumps({"id": 5}))
    receipts[2].write_text("[" * 100_000)
    receipts[3].write_text(json.dumps({**json.loads(receipts[3].read_text()), "id": "../sample"}))
    client.redis.flushdb()
    assert rushes(client, "import", tmp_path / "out") == 0

    said = capsys.readouterr()
    assert f"{len(jobs) - 4} samples imported" in said.out
    assert all(receipt.name in said.err for receipt in receipts[:4])
    assert "Traceback" not in said.err


def measured(client: Client, job: SampleJob, drift: Drift | None, **changes: object) -> None:
    """Give the sample of a job a drift, and its prompt other fields."""
    record = client.get(job.id)
    assert record.result is not None
    changed = job.model_copy(update={"prompt": job.prompt.model_copy(update=changes)})
    result = record.result.model_copy(update={"drift": drift, "scores": {"clip": 0.25 + job.step / 1000}})
    client.redis.hset(keys.job(job.id), mapping={"payload": changed.encode(), "result": result.encode()})


def test_the_report_holds_ranking_and_curves_and_loads_nothing(
    client: Client, jobs: list[SampleJob], tmp_path: Path
) -> None:
    for job in jobs:
        drift = Drift(latents=job.step / 1000, pixels=job.step / 30) if job.step else None
        measured(client, job, drift, **({"drift_limit": 0.1} if job.prompt_index else {}))
    field = read_field(client, ["cut"])
    best, other = field.contenders[-1], field.contenders[0]
    row = next(iter(best.samples))
    sides = [
        Side(sample=found.samples[row], contender=found.column.key, title=found.title, run="cut")
        for found in (best, other)
    ]
    VoteStore(client, ["cut"], field.directories).add(
        Vote(id="v", at=1.0, voter="<ada>", row=row, left=sides[0], right=sides[1], choice="left")
    )

    assert rushes(client, "export", "cut", "--html", tmp_path / "page") == 0

    page = (tmp_path / "page" / "index.html").read_text()
    assert "<h2>Ranking</h2>" in page and "1 blind votes by &lt;ada&gt; (1)" in page
    assert page.index("step 300</td>") < page.index("base model</td>"), "the better one comes first"
    assert page.count("<polyline") == 6, "two rows, three measures"
    assert page.count('<polyline class="control"') == 3
    assert "Score: clip" in page
    assert not re.search(r"(?:src|href)=\"(?:https?:)?//", page)
    assert "style=" not in page and "onclick" not in page, "its policy would refuse them"


def test_a_row_whose_noise_came_from_different_cards_says_so(
    client: Client, jobs: list[SampleJob], tmp_path: Path
) -> None:
    cards = {0: "cuda:0 (NVIDIA H200)", 2: "cuda:1 (NVIDIA L40S)", 1: "cuda:0 (NVIDIA H200)", 3: "cuda:1 (NVIDIA H200)"}
    for index, device in cards.items():
        result = client.get(jobs[index].id).result
        assert result is not None and result.receipt is not None
        receipt = json.loads(Path(result.receipt).read_text())
        Path(result.receipt).write_text(json.dumps({**receipt, "device": device, "noise": "device"}))
    client.redis.flushdb()
    assert rushes(client, "import", tmp_path / "out") == 0
    assert rushes(client, "export", "cut", "--html", tmp_path / "page") == 0

    noise = {cell.id: cell.noise for cell in grid_of(client, "cut").cells}
    drawn = [noise[job.id] for job in jobs]
    assert drawn == ["NVIDIA H200", "NVIDIA H200", "NVIDIA L40S", "NVIDIA H200", *[None] * (len(jobs) - 4)]
    first, second = re.findall(r"<small>([^<]*seed[^<]*)</small>", (tmp_path / "page" / "index.html").read_text())
    assert first.endswith("noise from different hardware: NVIDIA H200, NVIDIA L40S")
    assert "noise" not in second


def test_drift_and_scores_come_back_from_receipts(client: Client, jobs: list[SampleJob], tmp_path: Path) -> None:
    result = client.get(jobs[-1].id).result
    assert result is not None and result.receipt is not None
    receipt = json.loads(Path(result.receipt).read_text())
    facts = {"drift": {"latents": 0.4, "pixels": 3.5}, "scores": {"clip": 0.3}, "health": ["drifted"]}
    Path(result.receipt).write_text(json.dumps({**receipt, **facts}))
    client.redis.flushdb()

    assert rushes(client, "import", tmp_path / "out") == 0

    cell = next(cell for cell in grid_of(client, "cut").cells if cell.id == jobs[-1].id)
    assert (cell.drift, cell.drift_pixels, cell.scores, cell.health) == (0.4, 3.5, {"clip": 0.3}, ("drifted",))


def test_drafts_are_marked_in_a_row_of_their_own(client: Client, jobs: list[SampleJob], tmp_path: Path) -> None:
    draft = jobs[2].model_copy(update={"id": "d" * 32, "draft": 0.08})
    client.submit([draft])
    finish(client, draft, Scene(0, 96, 64, 1), 0.5)
    assert rushes(client, "export", "cut", "--html", tmp_path / "page") == 0
    assert rushes(client, "grid", "cut", "--png", tmp_path / "sheet.png") == 0

    page = (tmp_path / "page" / "index.html").read_text()
    facts = re.findall(r"<small>([^<]*seed[^<]*)</small>", page)
    assert [text.endswith("draft, threshold 0.08: approximate") for text in facts] == [False, True, False]
    assert page.count('<b class="mark">draft</b>') == 1
    pixels = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert 200 < (pixels == sheet.MARKED).all(axis=-1).sum() < 2000, "one word in a box"
