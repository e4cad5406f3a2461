"""Runs, favourites, the queue, uploads, receipts, numbers: what the page shows and asks for."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import pytest
from PIL import Image

from api_support import Api, announce, ended, job, picture, serving
from gallery_support import paint_run
from rushes.wire import keys
from rushes.wire.jobs import Prompt, SampleJob
from rushes.wire.results import JobState
from rushes_service.api.background.metrics import MEMORY
from rushes_service.api.services.uploads import UPLOAD_DIR, prune
from rushes_service.queue import Queue
from support import wait_until


@pytest.fixture
def jobs(api: Api) -> list[SampleJob]:
    return paint_run(api.queue, "cut", api.root, (0, 100), prompts=["a boat"])


def test_a_run_is_renamed_and_archived_and_stays_itself(api: Api, jobs: list[SampleJob]) -> None:
    answer = api.http.patch("/v1/runs/cut", json={"title": "Paper", "archived": True})
    assert answer.json()["states"] == {"done": 2}
    api.http.patch("/v1/runs/cut", json={"note": "rank 16"})

    (run,) = api.http.get("/v1/runs", params={"archived": True}).json()["runs"]
    assert (run["name"], run["title"], run["note"], run["samples"]) == ("cut", "Paper", "rank 16", 2)
    assert api.http.get("/v1/runs", params={"archived": False}).json()["runs"] == []
    api.http.patch("/v1/runs/cut", json={"title": None, "archived": False})
    assert api.http.get("/v1/runs/cut").json()["title"] is None


@pytest.mark.parametrize("name", ["with space", "a/b", "ünï", "50%"])
def test_a_run_can_have_any_name(api: Api, name: str) -> None:
    api.queue.submit([job(1, api.root, run=name)])
    for part in ("", "/grid", "/checkpoints"):
        answer = api.http.get(f"/v1/runs/{name.replace('%', '%25')}{part}")
        assert answer.status_code == 200, part


def test_an_unknown_run_is_404(api: Api) -> None:
    for part in ("", "/grid", "/checkpoints"):
        assert api.http.get(f"/v1/runs/nothing{part}").status_code == 404


def test_what_a_run_waits_for_is_cancelled_at_once(api: Api) -> None:
    api.queue.submit([job(number, api.root) for number in range(5)])
    assert api.http.post("/v1/runs/cat/cancel").json()["states"] == {"cancelled": 5}


def test_favourites_are_shared_by_all_who_look(api: Api, jobs: list[SampleJob]) -> None:
    assert api.http.put(f"/v1/samples/{jobs[1].id}/favourite").status_code == 204
    cells = api.http.get("/v1/runs/cut/grid").json()["cells"]
    assert [cell["id"] for cell in cells if cell.get("favourite")] == [jobs[1].id]
    api.http.delete(f"/v1/samples/{jobs[1].id}/favourite")
    assert not any(cell.get("favourite") for cell in api.http.get("/v1/runs/cut/grid").json()["cells"])


def test_a_failed_sample_is_tried_again(api: Api) -> None:
    api.queue.submit([job(1, api.root)])
    api.http.delete(f"/v1/samples/{job(1, api.root).id}")
    assert api.http.post(f"/v1/samples/{job(1, api.root).id}/retry").json()["state"] == "queued"


def test_the_queue_tells_what_waits_in_the_order_in_which_it_will_run(api: Api) -> None:
    api.queue.submit([job(1, api.root), job(2, api.root), job(3, api.root, priority="interactive")])
    state = api.http.get("/v1/queue").json()

    assert [sample["id"][-1] for sample in state["samples"]] == ["3", "1", "2"]
    assert [(lane["priority"], lane["waiting"]) for lane in state["lanes"]] == [("interactive", 1), ("training", 2)]


def test_receipt_and_numbers_of_a_sample_can_be_read(api: Api, jobs: list[SampleJob]) -> None:
    receipt = api.http.get(f"/v1/samples/{jobs[1].id}/receipt").json()
    lora = api.http.get(f"/v1/samples/{jobs[1].id}/lora").json()

    assert receipt["scheduler"] == "UniPC (flow)"
    assert (lora["ranks"], lora["tensors"], lora["parameters"]) == ([16], 2, 256)
    assert lora["metadata"]["ss_learning_rate"] == "0.0002"
    assert api.http.get(f"/v1/samples/{jobs[0].id}/lora").status_code == 404


def test_a_receipt_that_leads_elsewhere_is_not_read(api: Api, jobs: list[SampleJob]) -> None:
    receipt = Path(api.queue.get(jobs[1].id).result.receipt or "")  # type: ignore[union-attr]
    secret = api.root.parent / "secret.json"
    secret.write_text('{"token": 1}')
    receipt.unlink()
    receipt.symlink_to(secret)

    assert api.http.get(f"/v1/samples/{jobs[1].id}/receipt").status_code == 403


def test_stills_are_small_kept_and_made_anew_for_another_file(api: Api, jobs: list[SampleJob]) -> None:
    address = f"/v1/samples/{jobs[1].id}/thumbnail"
    first = api.http.get(address, params={"width": 160})
    with Image.open(io.BytesIO(first.content)) as still:
        assert (still.format, still.size) == ("WEBP", (96, 64))
    assert api.http.get(address, headers={"If-None-Match": first.headers["etag"]}).status_code in (200, 304)
    assert "immutable" in api.http.get(address, params={"v": 1}).headers["cache-control"]
    media = Path(api.queue.get(jobs[1].id).result.path or "")  # type: ignore[union-attr]
    media.write_bytes(b"this is no video")
    broken = api.http.get(address)
    assert broken.status_code == 404
    assert "no frame" in broken.json()["detail"]


def test_the_still_of_a_sample_that_ends_is_made_before_anybody_asks(api: Api) -> None:
    (sample,) = paint_run(api.queue, "cut", api.root, (0,), prompts=["a boat"])
    wait_until(lambda: api.http.get("/metrics").status_code == 200, 10, "the API")
    result = api.queue.get(sample.id).result
    assert result is not None
    api.queue.redis.xadd(keys.EVENTS, {"type": "done", "id": sample.id, "run": "cut", "data": result.encode()})

    wait_until(lambda: list((api.root / "cache" / "thumbnails").glob("*.webp")), 20, "the still")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_an_uploaded_picture_can_be_named_in_a_prompt(api: Api, kind: str) -> None:
    data = io.BytesIO()
    Image.new("RGB", (32, 32), "red").save(data, kind)
    answer = api.http.post("/v1/uploads", content=data.getvalue())

    assert answer.status_code == 201
    path = answer.json()["path"]
    assert api.http.post("/v1/uploads", content=data.getvalue()).json()["path"] == path
    body = {"architecture": "wan2.1-t2v", "prompt": {"prompt": "a cat", "image_path": path}}
    made = api.http.post("/v1/samples", json=body)
    assert made.json()["job"]["prompt"]["image_path"] == str(api.root / path)


@pytest.mark.parametrize("data", [b"", b"GIF89a", b"<svg onload=alert(1)>", b"\x89PNG\r\n\x1a\n broken", b"\x00" * 100])
def test_what_is_no_picture_is_not_kept(api: Api, data: bytes) -> None:
    assert api.http.post("/v1/uploads", content=data).status_code == 415
    assert not (api.root / ".rushes").exists()


def test_an_upload_that_cannot_be_written_says_where(api: Api, tmp_path: Path) -> None:
    (api.root / ".rushes").write_bytes(b"in the way")

    answer = api.http.post("/v1/uploads", content=picture(tmp_path / "a.png").read_bytes())
    assert answer.status_code == 507
    assert str(api.root / UPLOAD_DIR) in answer.json()["detail"]


def test_a_picture_that_would_fill_the_memory_is_not_opened(api: Api) -> None:
    data = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(data, "PNG")

    assert len(data.getvalue()) < 100_000
    assert api.http.post("/v1/uploads", content=data.getvalue()).status_code == 415


def test_models_and_families_are_listed(api: Api) -> None:
    api.queue.submit([job(1, api.root)])
    found = api.http.get("/v1/models").json()

    assert [model["spec"]["architecture"] for model in found["models"]] == ["wan2.1-t2v"]
    assert {"name": "wan2.1-t2v", "sampled": True, "required": []} in found["families"]


def test_numbers_for_prometheus_tell_lanes_ends_and_stages(api: Api) -> None:
    sample, other = paint_run(api.queue, "cut", api.root, (0, 100), prompts=["a boat"], stop=1)
    result = api.queue.get(sample.id).result
    assert result is not None
    wait_until(lambda: "rushes_workers" in api.http.get("/metrics").text, 10, "the API")
    announce(api.queue, "started", other.id)
    api.queue.redis.xadd(keys.EVENTS, {"type": "done", "id": sample.id, "run": "cut", "data": result.encode()})
    error = {"error": {"code": "lora_mismatch", "message": "no"}}
    failed = {"type": "failed", "id": other.id, "run": "cut", "data": json.dumps(error)}
    api.queue.redis.xadd(keys.EVENTS, failed)

    def numbers() -> str:
        text = api.http.get("/metrics").text
        return text if 'rushes_failures_total{code="lora_mismatch"}' in text else ""

    text = wait_until(numbers, 10, "the events to be counted")
    assert 'rushes_samples_total{state="done"} 1.0' in text
    assert 'rushes_stage_seconds_count{stage="denoise"} 1.0' in text
    assert "rushes_peak_memory_bytes" in text
    assert 'priority="training"} 1.0' in text


def test_memory_of_workers_is_among_the_numbers(api: Api, tmp_path: Path) -> None:
    worker = Queue(api.queue.url, worker="box-cuda0", lease_s=30)
    worker.announce({"state": "idle", "device": "cuda:0", **{name: str(n) for n, name in enumerate(MEMORY, 1)}})

    text = api.http.get("/metrics").text
    for number, what in enumerate(("held", "peak", "used", "total"), 1):
        assert f'rushes_worker_memory_bytes{{device="cuda:0",what="{what}",worker="box-cuda0"}} {number}.0' in text


def test_samples_are_listed_in_either_order_and_by_several_states(api: Api) -> None:
    api.queue.submit([job(number, api.root) for number in range(6)])
    api.http.delete(f"/v1/samples/{job(2, api.root).id}")

    def ids(**query: object) -> list[int]:
        found: list[int] = []
        cursor = None
        while True:
            page = api.http.get("/v1/samples", params={**query, "limit": 2, **({"cursor": cursor} if cursor else {})})
            found += [int(sample["id"], 16) for sample in page.json()["samples"]]
            cursor = page.json()["next"]
            if cursor is None:
                return found

    assert ids() == [5, 4, 3, 2, 1, 0]
    assert ids(order="oldest") == [0, 1, 2, 3, 4, 5]
    assert ids(state="queued") == [5, 4, 3, 1, 0]
    assert ids(state=["queued", "cancelled"], order="oldest") == [0, 1, 2, 3, 4, 5]
    assert ids(state="cancelled") == [2]


def test_a_picture_that_is_deleted_is_said_to_be_gone(api: Api) -> None:
    sample = job(1, api.root)
    api.queue.submit([sample])
    path = picture(api.root / "a.png")
    ended(api.queue, sample, JobState.DONE, path=str(path), media_type="image/png")
    path.unlink()
    for part in ("media", "thumbnail"):
        assert "is gone" in api.http.get(f"/v1/samples/{sample.id}/{part}").json()["detail"]


def test_an_old_upload_is_removed_unless_a_sample_names_it(api: Api) -> None:
    paths: list[Path] = []
    for colour in ("red", "green", "blue"):
        data = io.BytesIO()
        Image.new("RGB", (8, 8), colour).save(data, "PNG")
        paths.append(api.root / api.http.post("/v1/uploads", content=data.getvalue()).json()["path"])
    named, forgotten, fresh = paths
    asked = Prompt(prompt="a boat", image_path=str(named))
    api.queue.submit([job(1, api.root, prompt=asked)])
    for path in (named, forgotten):
        os.utime(path, (0, 0))
    uploads = api.root / UPLOAD_DIR

    assert prune(uploads, api.queue) == 1
    assert (named.exists(), forgotten.exists(), fresh.exists()) == (True, False, True)
    with serving("redis://127.0.0.1:1/0", api.root) as without_redis:
        assert without_redis.http.get("/healthz").status_code == 200
    assert named.exists()
    api.queue.redis.flushdb()
    assert prune(uploads, api.queue) == 1
    assert not named.exists()
