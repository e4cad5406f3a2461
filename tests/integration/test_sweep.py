"""One checkpoint at several strengths and seeds: by the command and by the API."""

from __future__ import annotations

from pathlib import Path

import pytest

from api_support import Api
from gallery_support import PROMPTS, paint_run
from rushes.cli import main as cli
from rushes.errors import ConfigError
from rushes.submission.sweeps import parse_strengths
from rushes.wire.results import JobRecord


@pytest.fixture
def run(api: Api) -> Api:
    """A run of one checkpoint and the base model, two prompts."""
    paint_run(api.queue, "cut", api.root, (0, 400), prompts=PROMPTS[:2], size=(32, 32), frames=1)
    return api


def samples(api: Api, run: str = "cut-sweep-400") -> list[JobRecord]:
    return api.queue.list(run=run, limit=1000)


@pytest.mark.parametrize(
    ("text", "strengths"),
    [
        ("0.4:1.2:0.2", (0.4, 0.6, 0.8, 1.0, 1.2)),
        ("0.5,1", (0.5, 1.0)),
        ("1", (1.0,)),
        ("0:1:0.3", (0.0, 0.3, 0.6, 0.9)),
    ],
)
def test_strengths_are_a_range_or_a_list(text: str, strengths: tuple[float, ...]) -> None:
    assert parse_strengths(text) == strengths


@pytest.mark.parametrize("text", ["", "a", "1:0:0.1", "0:1:0", "0:1", "0:1:-1", "nan", "0:inf:1", "0:1:0.001"])
def test_strengths_that_make_no_sense_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--strengths"):
        parse_strengths(text)


def test_the_command_takes_model_and_prompts_from_the_checkpoints_run(
    run: Api, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = run.root / "cut-step00000400.safetensors"

    assert (
        cli.main(
            [
                "sweep",
                str(checkpoint),
                "--strengths",
                "0.4:1.2:0.2",
                "--seeds",
                "4",
                "--redis-url",
                run.settings.redis_url,
            ]
        )
        == 0
    )

    found = [record.job for record in samples(run) if record.job]
    assert "48 samples queued for cut-sweep-400" in capsys.readouterr().out
    assert len(found) == 2 * 4 * 6, "two prompts, four seeds, five strengths and the base model"
    assert {job.strength for job in found if job.checkpoint} == {0.4, 0.6, 0.8, 1.0, 1.2}
    assert {job.prompt.seed for job in found if job.prompt_index == 0} == {42, 43, 44, 45}
    assert {job.prompt.prompt for job in found} == set(PROMPTS[:2])
    assert {job.step for job in found if job.checkpoint} == {400}
    grid = run.http.get("/v1/runs/cut-sweep-400/grid").json()
    assert [column.get("strength", 1.0) for column in grid["columns"]] == [0.0, 0.4, 0.6, 0.8, 1.0, 1.2], (
        "strengths across"
    )
    assert len(grid["rows"]) == 8


def test_the_api_sweeps_the_checkpoint_of_a_sample_and_makes_nothing_twice(run: Api) -> None:
    sample = next(record for record in run.queue.list(run="cut", limit=10) if record.job and record.job.checkpoint)
    body = {"strengths": [0.5, 1.0], "seeds": 1}

    first = run.http.post(f"/v1/samples/{sample.id}/sweep", json=body).json()
    again = run.http.post(f"/v1/samples/{sample.id}/sweep", json=body).json()
    one = run.http.post(f"/v1/samples/{sample.id}/sweep", json={"strengths": [0.7], "prompts": "this"}).json()

    assert (first["run"], len(first["samples"])) == ("cut-sweep-400", 6)
    assert (again["samples"], again["existing"]) == ([], 6)
    assert len(one["samples"]) == 1, "the base model is there already"


def test_the_base_model_has_no_strength_to_sweep(run: Api) -> None:
    sample = next(record for record in run.queue.list(run="cut", limit=10) if record.job and not record.job.checkpoint)

    answer = run.http.post(f"/v1/samples/{sample.id}/sweep", json={})

    assert answer.status_code == 409
    assert run.http.post(f"/v1/samples/{sample.id}/sweep", json={"strengths": []}).status_code == 422


def test_a_checkpoint_that_nobody_has_sampled_needs_its_family(
    run: Api, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from gallery_support import small_lora

    other = small_lora(tmp_path / "other.safetensors", 7)
    url = ["--redis-url", run.settings.redis_url]

    assert cli.main(["sweep", str(other), *url]) == 1
    assert "--run" in capsys.readouterr().err
    assert cli.main(["sweep", str(other), "--run", "cut", "--strengths", "1", *url]) == 0
    assert len(samples(run, "cut-sweep-0")) == 4
    assert cli.main(["sweep", str(other), "--architecture", "wan2.1-t2v", *url]) == 2
    assert "--sample_prompts" in capsys.readouterr().err
    assert cli.main(["sweep", str(other), "--seeds", "0", *url]) == 2


def test_a_sweep_is_exact_also_of_a_draft_unless_drafts_are_asked_for(run: Api) -> None:
    sample = next(record for record in run.queue.list(run="cut", limit=100) if record.job and record.job.checkpoint)
    draft = run.http.post(f"/v1/samples/{sample.id}/resample", json={"draft": True}).json()["id"]
    run.http.post(f"/v1/samples/{draft}/sweep", json={"strengths": [0.5]}).raise_for_status()
    assert {record.job and record.job.draft for record in samples(run)} == {None}

    checkpoint = str(run.root / "cut-step00000400.safetensors")
    command = ["sweep", checkpoint, "--run", "cut", "--strengths", "0.5", "--redis-url", run.settings.redis_url]
    assert cli.main(command) == 0
    assert {record.job and record.job.draft for record in samples(run)} == {None}
    assert cli.main([*command, "--draft", "0.2"]) == 0
    assert {record.job and record.job.draft for record in samples(run)} == {None, 0.2}
