"""Asking for samples over REST, looking at them, cancelling them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from api_support import Api, ended, job, serving
from rushes.wire.results import JobError, JobState
from rushes_service.processes.embedded_redis import EmbeddedRedis


@pytest.fixture
def api(redis_server: EmbeddedRedis, tmp_path: Path) -> Iterator[Api]:
    with serving(redis_server.url, tmp_path / "root") as running:
        running.root.mkdir(exist_ok=True)
        running.queue.redis.flushdb()
        save_file({"lora_unet_a.lora_down.weight": np.zeros((4, 8), np.float32)}, running.root / "cat.safetensors")
        yield running


def ask(api: Api, **changes: Any) -> dict[str, Any]:
    body = {"architecture": "wan2.1-t2v", "prompt": "a cat --w 64 --h 64 --d 1", **changes}
    content = json.dumps({name: value for name, value in body.items() if value is not ...})
    return {"content": content, "headers": {"Content-Type": "application/json"}}


def test_a_sample_asked_for_by_prompt_line_is_queued_before_training_samples(api: Api) -> None:
    answer = api.http.post("/v1/samples", **ask(api, checkpoint="cat.safetensors", step=100, strength=0.5))

    assert answer.status_code == 202
    sample = api.http.get(answer.headers["location"]).json()
    assert sample == answer.json()
    assert sample["state"] == "queued"
    assert sample["job"]["priority"] == "interactive"
    assert sample["job"]["prompt"] | {"width": 64, "seed": 1, "lora_multiplier": 0.5} == sample["job"]["prompt"]
    assert sample["job"]["checkpoint"]["path"] == str(api.root / "cat.safetensors")
    assert len(sample["job"]["checkpoint"]["fingerprint"]) == 64


@pytest.mark.parametrize("name", ["pytorch_lora_weights.safetensors", "adapter_model.safetensors"])
def test_an_adapters_directory_is_a_checkpoint(api: Api, name: str) -> None:
    directory = api.root / "checkpoint-500"
    directory.mkdir()
    save_file({"transformer.a.lora_A.weight": np.zeros((4, 8), np.float32)}, directory / name)
    if name == "adapter_model.safetensors":
        (directory / "adapter_config.json").write_text(json.dumps({"r": 4, "lora_alpha": 8}))

    made = api.http.post("/v1/samples", **ask(api, checkpoint="checkpoint-500", loras=[{"path": "checkpoint-500"}]))
    first = made.json()["job"]
    named = api.http.post("/v1/samples", **ask(api, checkpoint=f"checkpoint-500/{name}")).json()["job"]

    assert made.status_code == 202
    assert first["checkpoint"]["path"] == str(directory)
    assert first["loras"][0]["fingerprint"] == first["checkpoint"]["fingerprint"] == named["checkpoint"]["fingerprint"]
    known = api.http.get(f"/v1/runs/{first['run']}/checkpoints").json()["checkpoints"]
    sampled = next(checkpoint for checkpoint in known if checkpoint["samples"])
    assert sampled["kept"]
    assert sampled["path"].startswith(str(directory))


def test_a_configuration_that_changed_is_another_checkpoint(api: Api) -> None:
    directory = api.root / "adapter"
    directory.mkdir()
    save_file({"transformer.a.lora_A.weight": np.zeros((4, 8), np.float32)}, directory / "adapter_model.safetensors")
    found = []
    for alpha in (8, 16):
        (directory / "adapter_config.json").write_text(json.dumps({"r": 4, "lora_alpha": alpha}))
        made = api.http.post("/v1/samples", **ask(api, checkpoint="adapter")).json()["job"]
        found.append(made["checkpoint"]["fingerprint"])

    assert found[0] != found[1]


def test_a_prompt_and_a_model_may_be_objects(api: Api) -> None:
    model = {"architecture": "wan2.1-t2v", "model": "Wan-AI/Wan2.1-T2V-1.3B-Diffusers", "dtype": "bfloat16"}
    body = ask(api, architecture=..., model=model, prompt={"prompt": "a cat", "width": 64, "frame_count": 5})

    made = api.http.post("/v1/samples", **body).json()["job"]

    assert made["model"] | model == made["model"]
    assert made["prompt"]["frame_count"] == 5


def test_without_a_seed_each_request_makes_another_picture(api: Api) -> None:
    first, second = (api.http.post("/v1/samples", **ask(api, prompt="a cat")).json() for _ in range(2))

    assert first["id"] != second["id"]
    assert first["job"]["prompt"]["seed"] != second["job"]["prompt"]["seed"]


def test_with_a_seed_the_same_request_makes_one_sample(api: Api) -> None:
    first, second = (api.http.post("/v1/samples", **ask(api)).json() for _ in range(2))

    assert first["id"] == second["id"]
    assert len(api.http.get("/v1/samples").json()["samples"]) == 1


@pytest.mark.parametrize(
    ("changes", "field", "words"),
    [
        ({"prompt": "a cat --wide 64"}, "prompt", "unknown option --wide"),
        ({"prompt": {"prompt": "a cat", "width": 0}}, "prompt.width", "greater than or equal to 1"),
        ({"prompt": {"prompt": "a cat", "heigth": 9}}, "prompt.heigth", "Extra inputs"),
        ({"prompt": ...}, "prompt", "Field required"),
        ({"architecture": "sdxl"}, "architecture", "unknown architecture 'sdxl'"),
        ({"architecture": ...}, "architecture", "model family"),
        ({"model": {"architecture": "flux"}}, "architecture", "leave one out"),
        ({"checkpoint": "gone.safetensors"}, "checkpoint", "no such checkpoint"),
        ({"checkpoint": "half.safetensors"}, "checkpoint", "cut short"),
        ({"checkpoint": "/etc/passwd"}, "checkpoint", "outside"),
        ({"checkpoint": "../outside.safetensors"}, "checkpoint", "outside"),
        ({"checkpoint": "link.safetensors"}, "checkpoint", "outside"),
        ({"checkpoint": "a\0b"}, "checkpoint", "not a usable path"),
        ({"checkpoint": "https://example.com/x.safetensors"}, "checkpoint", "is an address"),
        ({"model": "/usr/share/model"}, "model", "outside"),
        ({"model": {"architecture": "wan2.1-t2v", "t5": "/usr/t5.pth"}}, "model.t5", "outside"),
        ({"output_dir": "/tmp"}, "output_dir", "outside"),
        ({"output_name": "../../x"}, "output_name", "match pattern"),
        ({"prompt": "a cat --i /etc/hostname"}, "prompt.image_path", "outside"),
        ({"prompt": {"prompt": "a", "control_image_path": ["/etc/hostname"]}}, "prompt.control_image_path", "outside"),
        ({"prompt": "a cat --i ~root/x.png"}, "prompt.image_path", "outside"),
        ({"prompt": "half a pair \ud800"}, "body", "not Unicode"),
        ({"prompt": {"prompt": "a", "negative_prompt": "\ud800"}}, "body", "not Unicode"),
        ({"checkpoint": "\ud800"}, "body", "not Unicode"),
        ({"step": 10**30}, "step", "less than or equal"),
        ({"step": -1}, "step", "greater than or equal to 0"),
        ({"colour": "red"}, "colour", "Extra inputs"),
    ],
)
def test_a_wrong_request_is_told_which_field_is_wrong_and_why(
    api: Api, changes: dict[str, Any], field: str, words: str
) -> None:
    outside = api.root.parent / "outside.safetensors"
    outside.write_bytes((api.root / "cat.safetensors").read_bytes())
    (api.root / "link.safetensors").symlink_to(outside)
    (api.root / "half.safetensors").write_bytes(outside.read_bytes()[:-8])

    answer = api.http.post("/v1/samples", **ask(api, **changes))

    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["field"] == field
    assert words in problem["detail"]
    assert problem["type"].startswith("urn:rushes:")
    assert "Traceback" not in answer.text
    assert api.http.get("/v1/samples").json()["samples"] == []


def test_a_body_that_is_not_json_is_a_problem_and_not_a_trace(api: Api) -> None:
    answer = api.http.post("/v1/samples", content=b"{", headers={"content-type": "application/json"})

    assert answer.status_code == 422
    assert answer.json()["field"] == "body"
    assert answer.headers["content-type"] == "application/problem+json"


def test_pages_show_every_sample_once_though_a_submission_shares_one_time(api: Api) -> None:
    api.queue.submit([job(number, api.root) for number in range(7)])
    api.queue.submit([job(number, api.root) for number in range(7, 10)])
    seen: list[str] = []
    cursor: dict[str, str] = {}
    while True:
        page = api.http.get("/v1/samples", params={"run": "cat", "limit": 3, **cursor}).json()
        seen += [sample["id"] for sample in page["samples"]]
        if page["next"] is None:
            break
        cursor = {"cursor": page["next"]}

    assert seen == [job(number, api.root).id for number in [9, 8, 7, 6, 5, 4, 3, 2, 1, 0]]


def test_samples_are_listed_by_run_and_by_state(api: Api) -> None:
    jobs = [job(1, api.root), job(2, api.root), job(3, api.root, run="dog")]
    api.queue.submit(jobs)
    ended(api.queue, jobs[1], JobState.FAILED, error=JobError(code="lora_mismatch", message="no key matched"))

    def listed(**query: str) -> list[str]:
        return [sample["id"] for sample in api.http.get("/v1/samples", params=query).json()["samples"]]

    assert listed(run="dog") == [jobs[2].id]
    assert listed(state="failed") == [jobs[1].id]
    assert listed(run="dog", state="failed") == []
    assert [run["name"] for run in api.http.get("/v1/runs").json()["runs"]] == ["dog", "cat"]


WRONG = [{"limit": "201"}, {"limit": "0"}, {"state": "lost"}, {"cursor": "x"}, {"cursor": "\u0663.000000"}]


@pytest.mark.parametrize("query", WRONG)
def test_a_wrong_query_names_its_parameter(api: Api, query: dict[str, str]) -> None:
    answer = api.http.get("/v1/samples", params=query)

    assert answer.status_code == 422
    assert answer.json()["field"].split(".")[0] in query


def test_a_queued_sample_is_cancelled_at_once_and_a_running_one_is_told(api: Api) -> None:
    queued, running = job(1, api.root), job(2, api.root)
    api.queue.submit([queued, running])
    api.queue.redis.hset("{rushes}:job:" + running.id, "state", "running")

    assert api.http.delete(f"/v1/samples/{queued.id}").json()["state"] == "cancelled"
    told = api.http.delete(f"/v1/samples/{running.id}").json()
    assert (told["state"], told["cancelling"]) == ("running", True)


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_an_unknown_sample_is_404(api: Api, method: str) -> None:
    answer = api.http.request(method, "/v1/samples/0f3a")

    assert answer.status_code == 404
    assert answer.json()["type"] == "urn:rushes:job_not_found"
    assert "0f3a" in answer.json()["detail"]


def test_a_payload_that_cannot_be_read_is_still_shown(api: Api) -> None:
    sample = job(1, api.root)
    api.queue.submit([sample])
    api.queue.redis.hset("{rushes}:job:" + sample.id, mapping={"payload": "{}", "state": "dead"})

    shown = api.http.get(f"/v1/samples/{sample.id}").json()

    assert (shown["state"], shown["job"], shown["raw"]) == ("dead", None, "{}")


def test_without_redis_the_api_lives_and_says_what_is_wrong(tmp_path: Path) -> None:
    with EmbeddedRedis(tmp_path, 0) as server:
        url = server.url
    with serving(url, tmp_path) as api:
        assert api.http.get("/healthz").status_code == 200
        for path in ("/readyz", "/v1/samples", "/v1/samples/1", "/v1/samples/1/media", "/v1/events", "/v1/runs"):
            answer = api.http.get(path)
            assert answer.status_code == 503, path
            assert answer.headers["retry-after"]
            assert "cannot be reached" in answer.json()["detail"]
        assert api.http.post("/v1/samples", **ask(api)).status_code == 503


def test_with_redis_the_api_is_ready(api: Api) -> None:
    assert api.http.get("/readyz").json() == {"status": "ok"}
