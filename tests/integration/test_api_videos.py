"""Samples under the names of OpenAI's Videos API."""

from __future__ import annotations

from pathlib import Path

import pytest

from api_support import Api, picture
from gallery_support import MODEL, Scene, finish, paint_run, tell_progress
from rushes.wire.results import JobState


def test_a_clip_is_asked_for_followed_downloaded_and_remixed(api: Api) -> None:
    asked = {"model": "wan2.1-t2v", "prompt": "a paper boat", "seconds": "2", "size": "96x64", "seed": 7}
    video = api.http.post("/v1/videos", json=asked).json()
    assert (video["object"], video["status"], video["progress"]) == ("video", "queued", 0)
    record = api.queue.get(video["id"])
    assert record.job is not None
    assert (record.job.prompt.frame_count, record.job.prompt.width, record.job.priority) == (33, 96, "interactive")

    tell_progress(api.queue, record.job, 5)
    address = f"/v1/videos/{video['id']}"
    assert {"status": "in_progress", "progress": 25}.items() <= api.http.get(address).json().items()
    finish(api.queue, record.job, Scene(0, 96, 64, 24), 1.0)
    completed = api.http.get(address).json()
    assert {"status": "completed", "progress": 100, "seconds": "2", "size": "96x64"}.items() <= completed.items()
    for variant, kind in (("video", "video/mp4"), ("thumbnail", "image/webp")):
        content = api.http.get(f"{address}/content", params={"variant": variant}, follow_redirects=True)
        assert (content.status_code, content.headers["content-type"]) == (200, kind)

    remixed = api.http.post(f"{address}/remix", json={"prompt": "the same at night"}).json()
    again = api.queue.get(remixed["id"]).job
    assert again is not None
    assert (again.prompt.prompt, again.prompt.seed, again.prompt.frame_count) == ("the same at night", 7, 33)


def test_clips_are_listed_in_pages_and_cancelled(api: Api) -> None:
    jobs = paint_run(api.queue, "cut", api.root, (0, 100), prompts=["a boat", "a hill"], stop=1)
    first = api.http.get("/v1/videos", params={"limit": 3}).json()
    last = api.http.get("/v1/videos", params={"limit": 3, "after": first["last_id"]}).json()
    assert (first["has_more"], last["has_more"]) == (True, False)
    assert [video["id"] for video in first["data"] + last["data"]] == [job.id for job in reversed(jobs)]

    assert api.http.delete(f"/v1/videos/{jobs[1].id}").json() == {
        "id": jobs[1].id,
        "object": "video.deleted",
        "deleted": True,
    }
    assert api.queue.get(jobs[1].id).state is JobState.CANCELLED
    assert api.http.get(f"/v1/videos/{jobs[1].id}").json()["status"] == "failed"
    assert api.http.delete(f"/v1/videos/{jobs[0].id}").json()["deleted"] is False


def test_a_model_is_a_family_or_one_that_is_in_use(api: Api) -> None:
    assert "sora-9" in api.http.post("/v1/videos", json={"model": "sora-9", "prompt": "a boat"}).json()["detail"]
    spec = MODEL.model_copy(update={"model": str(api.root / "wan")})
    (job,) = paint_run(api.queue, "cut", api.root, (0,), prompts=["a boat"])
    api.queue.submit([job.model_copy(update={"id": "f" * 32, "model": spec})])

    answer = api.http.post("/v1/videos", json={"model": spec.label, "prompt": "a boat"})
    assert answer.status_code == 200, answer.text
    found = api.queue.get(answer.json()["id"]).job
    assert found is not None
    assert found.model.model == spec.model


def test_a_form_holds_the_same_fields_and_the_start_image_itself(api: Api, tmp_path: Path) -> None:
    fields = {"model": "wan2.1-i2v", "prompt": "a boat", "seconds": "2", "size": "96x64", "seed": "7", "checkpoint": ""}
    image = picture(tmp_path / "first frame.png").read_bytes()

    answer = api.http.post("/v1/videos", data=fields, files={"input_reference": ("first.png", image, "image/png")})

    assert answer.status_code == 200, answer.text
    assert {"seconds": "2.06", "size": "96x64"}.items() <= answer.json().items()
    found = api.queue.get(answer.json()["id"]).job
    assert found is not None
    assert (found.prompt.seed, found.prompt.frame_count, found.checkpoint) == (7, 33, None)
    assert found.prompt.image_path is not None
    assert Path(found.prompt.image_path).read_bytes() == image
    assert Path(found.prompt.image_path).is_relative_to(api.root / ".rushes")


def test_a_form_that_cannot_be_read_is_told_why(api: Api) -> None:
    fields = {"model": "wan2.1-i2v", "prompt": "a boat"}
    clip = ("a.mp4", b"\0\0\0\x18ftypisom", "video/mp4")
    refused = api.http.post("/v1/videos", data=fields, files={"input_reference": clip})
    assert (refused.status_code, refused.json()["field"]) == (422, "input_reference")
    assert "PNG, JPEG or WebP" in refused.json()["detail"]

    broken = api.http.post("/v1/videos", content=b"x", headers={"Content-Type": "multipart/form-data"})
    assert (broken.status_code, broken.json()["field"]) == (422, "body")
    assert "form" in broken.json()["detail"]
    large = api.http.post("/v1/videos", content=b"x" * (2 << 20), headers={"Content-Type": "application/json"})
    assert large.status_code == 413, "only a form may hold a picture"


def test_a_problem_has_its_message_where_clients_of_openai_look_for_it(api: Api) -> None:
    problem = api.http.post("/v1/videos", json={"model": "sora-9", "prompt": "a boat"}).json()
    assert problem["error"] == {
        "message": problem["detail"],
        "type": "urn:rushes:architecture",
        "param": "architecture",
        "code": "architecture",
    }
    assert "error" not in api.http.get("/v1/samples/none").json()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # OpenAI ends its own service of this API
def test_the_client_of_openai_makes_follows_and_downloads_a_clip(api: Api) -> None:
    openai = pytest.importorskip("openai")
    videos = openai.OpenAI(base_url=f"{api.url}/v1", api_key="none", max_retries=0).videos
    ours = {"seed": 7, "step": 100, "checkpoint": None}
    video = videos.create(model="wan2.1-t2v", prompt="a boat", seconds="4", size="96x64", extra_body=ours)
    assert (video.status, video.size) == ("queued", "96x64")
    with pytest.raises(openai.ConflictError, match="no picture yet"):
        videos.download_content(video.id)

    record = api.queue.get(video.id)
    assert record.job is not None
    assert (record.job.prompt.seed, record.job.step) == (7, 100)
    finish(api.queue, record.job, Scene(0, 96, 64, 24), 1.0)
    assert videos.poll(video.id).status == "completed"
    assert videos.download_content(video.id).read()[4:8] == b"ftyp"
    remixed = videos.remix(video.id, prompt="at night")
    assert [found.id for found in videos.list(limit=1)] == [remixed.id, video.id]
    assert videos.delete(remixed.id).deleted
    with pytest.raises(openai.UnprocessableEntityError, match="unknown architecture 'sora-9'"):
        videos.create(model="sora-9", prompt="a boat")
    with pytest.raises(openai.NotFoundError, match="no sample has the id"):
        videos.retrieve("none")
