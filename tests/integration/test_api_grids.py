"""Asking for more of a run: the same sample with changes, whole grids, and requests that are sent twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from api_support import Api, job
from gallery_support import jobs_of, paint_run, small_lora
from rushes.wire.jobs import DRAFT_THRESHOLD, Checkpoint, SampleJob
from rushes.wire.results import JobState

STEPS = (0, 100, 200)
PROMPTS = ("a boat", "a balloon")


@pytest.fixture
def jobs(api: Api) -> list[SampleJob]:
    """Two prompts at the base model and two checkpoints, all done."""
    return paint_run(api.queue, "cut", api.root, STEPS, prompts=PROMPTS, frames=1)


def queued(api: Api) -> list[SampleJob]:
    found = [record.job for record in api.queue.list(state=JobState.QUEUED, limit=1000)]
    return [job for job in found if job is not None]


def resample(api: Api, sample: SampleJob, **body: Any) -> httpx.Response:
    return api.http.post(f"/v1/samples/{sample.id}/resample", json=body)


def grid(api: Api, **body: Any) -> dict[str, Any]:
    answer = api.http.post("/v1/grids", json={"run": "cut", **body})
    assert answer.status_code == 202, answer.text
    return answer.json()


def test_a_sample_is_made_again_with_what_is_changed_and_all_else_as_it_was(api: Api, jobs: list[SampleJob]) -> None:
    before = jobs[2]
    answer = resample(api, before, prompt={"seed": 7, "cfg_scale": 3.5}, strength=0.5)

    assert answer.status_code == 202
    (new,) = queued(api)
    assert answer.headers["location"] == f"/v1/samples/{new.id}"
    assert (new.prompt.seed, new.prompt.cfg_scale, new.strength) == (7, 3.5, 0.5)
    assert (new.prompt.prompt, new.prompt.width, new.prompt.sample_steps) == ("a boat", 96, 20)
    assert (new.step, new.checkpoint, new.model, new.run) == (before.step, before.checkpoint, before.model, "cut")


def test_without_changes_it_is_the_same_sample(api: Api, jobs: list[SampleJob]) -> None:
    first = resample(api, jobs[2], strength=0.5).json()["id"]
    assert resample(api, jobs[2], strength=0.5).json()["id"] == first
    assert resample(api, api.queue.get(first).job, prompt={}).json()["id"] == first  # type: ignore[arg-type]


def test_null_draws_another_seed_each_time(api: Api, jobs: list[SampleJob]) -> None:
    seeds = {resample(api, jobs[0], prompt={"seed": None}).json()["job"]["prompt"]["seed"] for _ in range(3)}
    assert len(seeds) == 3


def test_the_base_model_and_other_checkpoints_can_be_named(api: Api, jobs: list[SampleJob]) -> None:
    other = small_lora(api.root / "other-step00000300.safetensors", 300)
    assert resample(api, jobs[2], checkpoint="base", prompt={"seed": 1}).json()["job"]["checkpoint"] is None
    made = resample(api, jobs[2], checkpoint=str(other), step=300).json()["job"]
    assert (made["checkpoint"]["path"], made["step"]) == (str(other), 300)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"checkpoint": "/etc/passwd"}, "checkpoint"),
        ({"checkpoint": "nowhere.safetensors"}, "checkpoint"),
        ({"prompt": {"image_path": "../../etc/passwd"}}, "prompt.image_path"),
        ({"prompt": {"width": -1}}, "prompt.width"),
        ({"prompt": {"colour": "red"}}, "prompt.colour"),
        ({"draft": -1}, "draft"),
        ({"draft": "often"}, "draft"),
    ],
)
def test_what_cannot_be_is_refused_with_its_field(
    api: Api, jobs: list[SampleJob], body: dict[str, Any], field: str
) -> None:
    answer = resample(api, jobs[2], **body)

    assert answer.status_code == 422
    assert answer.json()["field"] == field
    assert queued(api) == []


def test_a_checkpoint_that_was_rotated_away_is_a_sentence(api: Api, jobs: list[SampleJob]) -> None:
    Path(jobs[2].checkpoint.path).unlink()  # type: ignore[union-attr]
    answer = resample(api, jobs[2], strength=0.5)

    assert answer.status_code == 422
    assert "is gone" in answer.json()["detail"]


def test_a_link_of_ours_that_is_gone_gives_way_to_the_trainers_file(api: Api, jobs: list[SampleJob]) -> None:
    path = jobs[2].checkpoint.path  # type: ignore[union-attr]
    link = Checkpoint(path=str(api.root / "gone"), source=path, snapshot=True, fingerprint="f")
    sample = job(9, api.root, run="cut", checkpoint=link, step=100)
    api.queue.submit([sample])
    assert resample(api, sample, strength=0.5).json()["job"]["checkpoint"]["path"] == path


def test_a_grid_makes_only_what_is_missing(api: Api, jobs: list[SampleJob]) -> None:
    assert grid(api, samples=[jobs[0].id])["samples"] == []
    answer = grid(api, samples=[jobs[0].id], strengths=[0.5, 1.0], seeds=[42, 43])

    # At seed 42 the base model and both checkpoints at full strength are there: two halves are missing. At seed 43 all.
    assert (len(answer["samples"]), answer["existing"]) == (2 + 5, 3)
    made = queued(api)
    assert sorted(job.prompt.seed for job in made) == [42, 42, 43, 43, 43, 43, 43]
    assert sum(job.checkpoint is None for job in made) == 1, "the base model has no strength: once per seed"
    assert grid(api, samples=[jobs[0].id], strengths=[0.5, 1.0], seeds=[42, 43])["samples"] == []


def test_a_new_prompt_is_sampled_at_every_checkpoint_with_one_seed(api: Api, jobs: list[SampleJob]) -> None:
    assert len(grid(api, prompts=["a paper crane --w 96 --h 64 --f 1"])["samples"]) == 3
    assert len({job.prompt.seed for job in queued(api)}) == 1
    assert {job.prompt_index for job in queued(api)} == {2}
    rows = api.http.get("/v1/runs/cut/grid").json()["rows"]
    assert [row["prompt"] for row in rows] == [*PROMPTS, "a paper crane"]


def test_checkpoints_that_were_never_sampled_are_found_beside_the_others(api: Api, jobs: list[SampleJob]) -> None:
    small_lora(api.root / "cut-step00000300.safetensors", 300)
    (api.root / "broken-step00000400.safetensors").write_bytes(b"no")
    listed = api.http.get("/v1/runs/cut/checkpoints").json()["checkpoints"]
    assert [(found["step"], found["samples"] > 0) for found in listed if found["kept"]] == [
        (100, True),
        (200, True),
        (300, False),
    ]
    answer = grid(api, checkpoints="all")
    assert {job.step for job in queued(api)} == {300}
    assert "broken" in answer["skipped"][0]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"samples": ["nothing"]}, "samples"),
        ({"run": "empty", "architecture": "wan2.1-t2v"}, "prompts"),
        ({"run": "empty", "prompts": ["a cat"]}, "architecture"),
        ({"checkpoints": ["/etc/passwd"]}, "checkpoint"),
        ({"seeds": list(range(50)), "strengths": [number / 50 for number in range(1, 51)]}, "checkpoints"),
    ],
)
def test_a_grid_that_cannot_be_is_refused(api: Api, jobs: list[SampleJob], body: dict[str, Any], field: str) -> None:
    answer = api.http.post("/v1/grids", json={"run": "cut", **body})

    assert answer.status_code == 422
    assert answer.json()["field"] == field
    assert queued(api) == []


def test_the_same_key_carries_a_request_out_once(api: Api) -> None:
    body = {"architecture": "wan2.1-t2v", "prompt": "a cat"}
    headers = {"Idempotency-Key": "one"}
    first, second = (api.http.post("/v1/samples", json=body, headers=headers) for _ in range(2))

    assert first.json() == second.json()
    assert second.headers["idempotent-replayed"] == "true"
    assert second.headers["location"] == first.headers["location"]
    assert len(queued(api)) == 1
    other = api.http.post("/v1/samples", json={**body, "prompt": "a dog"}, headers=headers)
    assert (other.status_code, other.json()["field"]) == (422, "idempotency-key")
    assert api.http.post("/v1/samples", json=body, headers={"Idempotency-Key": "two"}).json() != first.json()


def test_a_field_that_is_null_and_one_that_is_left_out_are_two_requests(api: Api) -> None:
    (sample,) = jobs_of("cut", api.root, (0,), ["a boat"], (96, 64), 1)
    api.queue.submit([sample])
    same, another_seed = (
        api.http.post(f"/v1/samples/{sample.id}/resample", json={"prompt": prompt}, headers={"Idempotency-Key": "one"})
        for prompt in ({}, {"seed": None})
    )
    assert (same.status_code, another_seed.status_code) == (202, 422)
    assert another_seed.json()["field"] == "idempotency-key"


def test_a_key_whose_request_failed_can_be_used_again(api: Api) -> None:
    headers = {"Idempotency-Key": "one"}
    wrong = {"architecture": "wan2.1-t2v", "prompt": "a cat --wide 3"}
    assert api.http.post("/v1/samples", json=wrong, headers=headers).status_code == 422
    right = {"architecture": "wan2.1-t2v", "prompt": "a cat"}
    assert api.http.post("/v1/samples", json=right, headers=headers).status_code == 202


def test_the_grid_tells_rows_from_takes(api: Api) -> None:
    own_seeds = [
        sample.model_copy(update={"prompt": sample.prompt.model_copy(update={"seed": 1000 + number})})
        for number, sample in enumerate(jobs_of("cut", api.root, STEPS, ["a boat"], (96, 64), 1))
    ]
    api.queue.submit(own_seeds)
    found = api.http.get("/v1/runs/cut/grid").json()
    assert len(found["rows"]) == 1, "seeds that were drawn make no rows of their own"
    assert "seed" not in found["rows"][0]
    assert [column["key"] == "base" for column in found["columns"]] == [True, False, False]

    shared = own_seeds[0].model_copy(update={"id": "f" * 32, "prompt": own_seeds[1].prompt})
    api.queue.submit([shared])
    rows = api.http.get("/v1/runs/cut/grid").json()["rows"]
    assert {row.get("seed") for row in rows} == {None, 1001}, "a seed that two checkpoints share is a comparison"


def test_a_draft_is_another_sample_in_a_row_of_its_own_and_stays_one_until_the_exact_one_is_asked_for(
    api: Api, jobs: list[SampleJob]
) -> None:
    first = resample(api, jobs[2], draft=True).json()["job"]
    draft = api.queue.get(first["id"]).job
    assert draft is not None
    assert draft.draft == DRAFT_THRESHOLD
    assert resample(api, draft).json()["id"] == draft.id
    assert resample(api, jobs[2], draft=0.2).json()["job"]["draft"] == 0.2
    exact = resample(api, draft, draft=False).json()["job"]
    assert exact["id"] != draft.id
    assert exact["draft"] is None

    found = api.http.get("/v1/runs/cut/grid").json()
    rows = [(row["prompt"], row.get("draft")) for row in found["rows"]]
    assert rows == [("a boat", None), ("a boat", DRAFT_THRESHOLD), ("a boat", 0.2), ("a balloon", None)]
    assert {cell["row"] for cell in found["cells"] if cell["id"] == draft.id} == {found["rows"][1]["key"]}


def test_a_grid_of_a_run_with_drafts_is_exact_unless_drafts_are_asked_for(api: Api, jobs: list[SampleJob]) -> None:
    draft = resample(api, jobs[2], draft=True).json()["id"]
    assert grid(api)["samples"] == [], "a draft is in nobody's place, and makes no prompt of its own"
    made = grid(api, samples=[jobs[0].id], seeds=[43])["samples"]
    assert [job.draft for job in queued(api) if job.id in made] == [None] * 3
    drafts = grid(api, samples=[jobs[0].id], draft=True)
    assert (len(drafts["samples"]), drafts["existing"]) == (2, 1)
    assert {job.draft for job in queued(api) if job.id in {*drafts["samples"], draft}} == {DRAFT_THRESHOLD}
