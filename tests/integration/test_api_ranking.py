"""Blind ranking over the API and on the command line: votes in Redis and beside the samples."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from api_support import Api
from gallery_support import PROMPTS, paint_run
from rushes.cli import main as cli
from rushes_service.api.services import ranking as service
from rushes_service.ranking.votes import FILE_NAME

STEPS = (0, 100, 200, 300)


@pytest.fixture
def run(api: Api) -> Api:
    """A run of three checkpoints and the base model, two prompts."""
    paint_run(api.queue, "cut", api.root, STEPS, prompts=PROMPTS[:2], size=(32, 32), frames=1)
    return api


def step_of(api: Api, sample: str) -> int:
    return int(api.http.get(f"/v1/samples/{sample}").json()["job"].get("step", 0))


def ask(api: Api, voter: str = "ada", **more: Any) -> dict[str, Any]:
    return api.http.get("/v1/ranking/pair", params={"run": "cut", "voter": voter, **more}).json()


def cast(api: Api, pair: dict[str, Any], choice: str, voter: str = "ada") -> dict[str, Any]:
    body = {"runs": ["cut"], "voter": voter, "left": pair["left"]["id"], "right": pair["right"]["id"], "choice": choice}
    answer = api.http.post("/v1/ranking/votes", json=body)
    assert answer.status_code == 201, answer.text
    return answer.json()


def vote_for_later_steps(api: Api, votes: int, voter: str = "ada") -> None:
    for _ in range(votes):
        pair = ask(api, voter)
        later = step_of(api, pair["left"]["id"]) > step_of(api, pair["right"]["id"])
        cast(api, pair, "left" if later else "right", voter)


def test_a_pair_is_of_one_prompt_and_tells_nothing(run: Api) -> None:
    pair = ask(run)

    left, right = (run.http.get(f"/v1/samples/{pair[side]['id']}").json()["job"] for side in ("left", "right"))
    assert left["prompt"]["prompt"] == right["prompt"]["prompt"] == pair["prompt"]
    assert left["prompt"]["seed"] == right["prompt"]["seed"]
    assert set(pair["left"]) == {"id", "video", "fps", "width", "height"}, "no step, strength or file"


def test_votes_rank_the_checkpoints_and_two_voters_add_up(run: Api) -> None:
    vote_for_later_steps(run, 8)
    vote_for_later_steps(run, 8, "bob")

    ranking = run.http.get("/v1/ranking", params={"run": "cut"}).json()
    mine = run.http.get("/v1/ranking", params={"run": "cut", "voter": "bob"}).json()

    assert [place["step"] for place in ranking["places"]] == [300, 200, 100, 0]
    assert ranking["votes"] == 16 and mine["votes"] == 8
    assert {voter["name"]: voter["votes"] for voter in ranking["voters"]} == {"ada": 8, "bob": 8}
    best = ranking["places"][0]
    assert Path(best["path"]).name == "cut-step00000300.safetensors"
    assert run.http.get(f"/v1/samples/{best['sample']}/checkpoint").content == Path(best["path"]).read_bytes()


def test_every_pair_is_shown_once_and_then_there_is_none(run: Api) -> None:
    for _ in range(12):  # six pairs of checkpoints, two prompts
        cast(run, ask(run), "skip")

    pair = ask(run)
    assert pair["left"] is None and pair["voted"] == 12
    assert run.http.get("/v1/ranking", params={"run": "cut"}).json()["votes"] == 0, "a skipped pair says nothing"


def test_a_vote_can_be_withdrawn_on_disk_too(run: Api) -> None:
    kept = cast(run, ask(run), "left")
    gone = cast(run, ask(run), "right")
    assert ask(run)["last"] == gone["id"]

    assert run.http.delete(f"/v1/ranking/votes/{gone['id']}", params={"run": "cut"}).status_code == 204

    assert [vote["id"] for vote in run.http.get("/v1/ranking/votes", params={"run": "cut"}).json()] == [kept["id"]]
    assert run.http.delete(f"/v1/ranking/votes/{gone['id']}", params={"run": "cut"}).status_code == 404
    run.queue.redis.flushdb()
    assert cli.main(["import", str(run.root), "--redis-url", run.settings.redis_url]) == 0
    assert [vote["id"] for vote in run.http.get("/v1/ranking/votes", params={"run": "cut"}).json()] == [kept["id"]]


def test_an_emptied_redis_loses_no_vote(run: Api, capsys: pytest.CaptureFixture[str]) -> None:
    vote_for_later_steps(run, 6)
    before = run.http.get("/v1/ranking", params={"run": "cut"}).json()

    run.queue.redis.flushdb()
    assert cli.main(["rank", "--directory", str(run.root)]) == 0
    without_redis = capsys.readouterr().out
    assert cli.main(["import", str(run.root), "--redis-url", run.settings.redis_url]) == 0

    after = run.http.get("/v1/ranking", params={"run": "cut"}).json()
    assert [(place["step"], place["score"]) for place in after["places"]] == [
        (place["step"], place["score"]) for place in before["places"]
    ]
    assert "6 votes (ada 6)" in without_redis
    assert run.queue.redis.hlen("{rushes}:votes:cut") == 6, "they are in Redis again"


def test_the_command_prints_and_exports(run: Api, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    vote_for_later_steps(run, 12)
    url = ["--redis-url", run.settings.redis_url]

    assert cli.main(["rank", "cut", "--votes", str(tmp_path / "votes.csv"), *url]) == 0
    printed = capsys.readouterr().out
    assert cli.main(["rank", "cut", "--json", *url]) == 0
    ranking = json.loads(capsys.readouterr().out)

    assert printed.splitlines()[2].split()[:3] == ["1", "step", "300"]
    assert "keep step 300: " in printed and "cut-step00000300.safetensors" in printed
    assert ranking["places"][0]["step"] == 300
    with (tmp_path / "votes.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 12 and {row["voter"] for row in rows} == {"ada"}
    assert run.http.get("/v1/ranking/votes", params={"run": "cut", "format": "csv"}).text.count("\n") == 13


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rank"], "name a run"),
        (["rank", "nothing"], "no samples of a run 'nothing'"),
        (["rank", "--directory", "/nowhere"], "no such directory"),
        (["rank", "cut", "--votes", "votes.txt"], ".csv or .json"),
    ],
)
def test_what_cannot_be_ranked_is_said(
    run: Api, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    extra = [] if "--directory" in arguments else ["--redis-url", run.settings.redis_url]

    assert cli.main([*arguments, *extra]) in (1, 2)
    assert message in capsys.readouterr().err


def test_two_runs_of_the_same_prompts_are_ranked_together(run: Api) -> None:
    paint_run(run.queue, "cut2", run.root, (0, 50), prompts=PROMPTS[:2], size=(32, 32), frames=1)
    body = {"run": ["cut", "cut2"], "voter": "ada"}

    pair = run.http.get("/v1/ranking/pair", params=body).json()
    answer = run.http.post(
        "/v1/ranking/votes",
        json={
            "runs": ["cut", "cut2"],
            "voter": "ada",
            "left": pair["left"]["id"],
            "right": pair["right"]["id"],
            "choice": "left",
        },
    )
    ranking = run.http.get("/v1/ranking", params={"run": ["cut", "cut2"]}).json()

    assert answer.status_code == 201
    assert len(ranking["places"]) == 6 and ranking["votes"] == 1
    assert {place["run"] for place in ranking["places"]} == {"cut", "cut2"}


def test_a_directory_that_cannot_be_written_keeps_votes_elsewhere(run: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    # The tests may run as root, who may write everywhere.
    monkeypatch.setattr(service, "writable", lambda directory: False)

    cast(run, ask(run), "left")

    assert not (run.root / "sample" / FILE_NAME).exists()
    assert len(list(run.settings.state_dir.glob(f"votes/*/{FILE_NAME}"))) == 1


def test_wrong_votes_are_refused(run: Api) -> None:
    pair = ask(run)
    body = {"runs": ["cut"], "voter": "ada", "left": pair["left"]["id"], "right": pair["right"]["id"], "choice": "left"}

    for change, field in (
        ({"left": "0" * 32}, "left"),
        ({"right": pair["left"]["id"]}, "right"),
        ({"choice": "best"}, "choice"),
        ({"voter": ""}, "voter"),
        ({"runs": []}, "runs"),
    ):
        answer = run.http.post("/v1/ranking/votes", json={**body, **change})
        assert answer.status_code == 422, change
        assert answer.json()["field"].startswith(field)
    assert run.http.get("/v1/ranking/pair", params={"run": "nothing", "voter": "ada"}).status_code == 404


def test_a_run_with_one_checkpoint_has_nothing_to_rank(api: Api) -> None:
    paint_run(api.queue, "one", api.root, (0,), prompts=PROMPTS[:1], size=(32, 32), frames=1)

    answer = api.http.get("/v1/ranking/pair", params={"run": "one", "voter": "ada"})

    assert answer.status_code == 409
    assert "two checkpoints" in answer.json()["detail"]


def test_checkpoints_outside_the_roots_are_not_sent(run: Api, tmp_path_factory: pytest.TempPathFactory) -> None:
    from api_support import ended
    from gallery_support import jobs_of
    from rushes.wire.results import JobState

    elsewhere = tmp_path_factory.mktemp("elsewhere")
    sample = next(jobs_of("far", elsewhere, (10,), PROMPTS[:1], (32, 32), 1))
    run.queue.submit([sample])
    ended(run.queue, sample, JobState.DONE)

    assert run.http.get(f"/v1/samples/{sample.id}/checkpoint").status_code == 403
