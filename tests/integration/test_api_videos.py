"""Samples under the names of OpenAI's Videos API."""

from __future__ import annotations

from api_support import Api
from gallery_support import MODEL, Scene, finish, paint_run, tell_progress
from rushes.jobs import JobState


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
