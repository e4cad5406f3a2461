"""The picture of a sample over HTTP: ranges, validators, and nothing but the sample's own file."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from api_support import Api, done, ended, job, picture, serving
from rushes.wire.jobs import Checkpoint
from rushes.wire.results import JobError, JobState
from rushes_service.processes.embedded_redis import EmbeddedRedis


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    root = tmp_path_factory.mktemp("root")
    with EmbeddedRedis(tmp_path_factory.mktemp("valkey"), 0) as server, serving(server.url, root) as running:
        yield running


@pytest.fixture
def sample(api: Api) -> Iterator[tuple[str, Path]]:
    """Address and file of a sample that is done."""
    api.queue.redis.flushdb()
    file = picture(api.root / "sample" / "cat_000100_00.png")
    yield done(api.queue, job(1, api.root), file), file


def test_a_picture_is_served_whole_with_its_type_and_a_validator(api: Api, sample: tuple[str, Path]) -> None:
    address, file = sample
    answer = api.http.get(address)

    assert answer.status_code == 200
    assert answer.content == file.read_bytes()
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["accept-ranges"] == "bytes"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert 'inline; filename="cat_000100_00.png"' in answer.headers["content-disposition"]
    head = api.http.head(address)
    assert head.content == b""
    assert {**head.headers, "date": ""} == {**answer.headers, "date": ""}


def test_a_video_is_served_as_a_video(api: Api) -> None:
    api.queue.redis.flushdb()
    file = api.root / "sample" / "cat.mp4"
    file.parent.mkdir(exist_ok=True)
    iio.imwrite(file, np.zeros((5, 64, 64, 3), np.uint8), fps=16, codec="libx264")
    address = done(api.queue, job(2, api.root), file)

    answer = api.http.get(address, headers={"Range": "bytes=4-7"})

    assert answer.headers["content-type"] == "video/mp4"
    assert answer.content == b"ftyp"


@pytest.mark.parametrize(
    ("header", "first", "last"),
    [
        ("bytes=0-0", 0, 0),
        ("bytes=10-19", 10, 19),
        ("bytes=100-", 100, -1),
        ("bytes=-5", -5, -1),
        ("bytes=5-9999999", 5, -1),
        ("bytes=-9999999", 0, -1),
    ],
)
def test_a_range_is_answered_with_exactly_that_part(
    api: Api, sample: tuple[str, Path], header: str, first: int, last: int
) -> None:
    address, file = sample
    content = file.read_bytes()
    size = len(content)
    first, last = first % size, last % size

    answer = api.http.get(address, headers={"Range": header})

    assert answer.status_code == 206
    assert answer.content == content[first : last + 1]
    assert answer.headers["content-range"] == f"bytes {first}-{last}/{size}"


def test_several_ranges_come_as_parts_of_one_answer(api: Api, sample: tuple[str, Path]) -> None:
    address, file = sample
    answer = api.http.get(address, headers={"Range": "bytes=0-3, 100-103"})

    assert answer.status_code == 206
    assert answer.headers["content-type"].startswith("multipart/byteranges")
    assert file.read_bytes()[100:104] in answer.content


@pytest.mark.parametrize("header", ["bytes=99999999-", "bytes=-0", "bytes=99999999-100000000", "bytes=0-1,99999999-"])
def test_a_range_beyond_the_file_is_416_and_tells_the_size(api: Api, sample: tuple[str, Path], header: str) -> None:
    address, file = sample
    answer = api.http.get(address, headers={"Range": header})

    assert answer.status_code == 416
    assert answer.headers["content-range"] == f"bytes */{file.stat().st_size}"
    assert answer.headers["content-type"] == "application/problem+json"


ENDLESS = pytest.param(f"bytes={'9' * 5000}-", id="endless")


@pytest.mark.parametrize(
    "header", ["bytes=", "bytes=-", "bytes=9-3", "bytes=a-b", "lines=1-2", "bytes", "bytes=1-2-3", ENDLESS]
)
def test_a_range_that_is_none_is_a_problem(api: Api, sample: tuple[str, Path], header: str) -> None:
    answer = api.http.get(sample[0], headers={"Range": header})

    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/problem+json"


def test_a_browser_that_has_the_file_gets_no_second_copy(api: Api, sample: tuple[str, Path]) -> None:
    address, file = sample
    tag = api.http.get(address).headers["etag"]

    for header in (tag, f'"other", W/{tag}', "*"):
        again = api.http.get(address, headers={"If-None-Match": header, "Range": "bytes=0-3"})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == tag
    picture(file)
    assert api.http.get(address, headers={"If-None-Match": tag}).status_code == 200


def test_a_range_of_a_file_that_has_changed_is_the_whole_new_file(api: Api, sample: tuple[str, Path]) -> None:
    address, file = sample
    tag = api.http.get(address).headers["etag"]
    assert api.http.get(address, headers={"Range": "bytes=0-3", "If-Range": tag}).status_code == 206
    picture(file)

    assert api.http.get(address, headers={"Range": "bytes=0-3", "If-Range": tag}).content == file.read_bytes()


def test_a_sample_without_a_picture_says_why(api: Api) -> None:
    api.queue.redis.flushdb()
    waiting, failed = job(1, api.root), job(2, api.root)
    api.queue.submit([waiting, failed])
    ended(api.queue, failed, JobState.FAILED, error=JobError(code="non_finite", message="latents became NaN at step 3"))

    assert api.http.get(f"/v1/samples/{waiting.id}/media").status_code == 409
    answer = api.http.get(f"/v1/samples/{failed.id}/media")
    assert answer.status_code == 404
    assert "latents became NaN at step 3" in answer.json()["detail"]
    assert api.http.get("/v1/samples/unknown/media").status_code == 404


def test_a_picture_that_was_deleted_is_404(api: Api, sample: tuple[str, Path]) -> None:
    address, file = sample
    file.unlink()

    answer = api.http.get(address)

    assert answer.status_code == 404
    assert "is gone" in answer.json()["detail"]


@pytest.mark.parametrize("trick", ["absolute", "dots", "link to a file", "link to a directory", "sibling directory"])
def test_a_file_outside_the_output_directory_is_never_served(api: Api, tmp_path: Path, trick: str) -> None:
    api.queue.redis.flushdb()
    output = tmp_path / "output"
    (output / "sample").mkdir(parents=True)
    secret = picture(tmp_path / "output-secret" / "secret.png")
    (output / "sample" / "file.png").symlink_to(secret)
    (output / "linked").symlink_to(secret.parent)
    path = {
        "absolute": secret,
        "dots": output / "sample" / ".." / ".." / "output-secret" / "secret.png",
        "link to a file": output / "sample" / "file.png",
        "link to a directory": output / "linked" / "secret.png",
        "sibling directory": f"{output}-secret/secret.png",
    }[trick]
    address = done(api.queue, job(1, output), path)

    answer = api.http.get(address)

    assert answer.status_code == 403
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("name", ["weights.safetensors", "page.html", "directory.png"])
def test_what_is_not_a_picture_or_video_is_not_served(api: Api, name: str) -> None:
    api.queue.redis.flushdb()
    path = api.root / name
    path.mkdir() if name == "directory.png" else path.write_text("<script>")
    address = done(api.queue, job(1, api.root), path)

    assert api.http.get(address).status_code == 403


@pytest.mark.parametrize("id", ["..%2f..%2fetc%2fpasswd", "../../etc/passwd", "%2e%2e/x", "*"])
def test_an_id_is_never_a_path(api: Api, id: str) -> None:
    assert api.http.get(f"/v1/samples/{id}/media").status_code == 404


DAMAGED = {
    "a lone surrogate": b'{"prompt": "\\ud800"}',
    "no end of nesting": b"[" * 100_000,
    "no text": b"\xff\xfe",
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_receipt_is_404_and_says_so(api: Api, sample: tuple[str, Path], content: bytes) -> None:
    address, file = sample
    receipt = file.with_suffix(".json")
    receipt.write_bytes(content)
    ended(api.queue, job(1, api.root), JobState.DONE, path=str(file), receipt=str(receipt))

    answer = api.http.get(address.replace("/media", "/receipt"))
    assert answer.status_code == 404
    assert f"{receipt.name} cannot be read" in answer.json()["detail"]


@pytest.mark.parametrize("kind", ["too many pixels", "too much text"])
def test_a_still_of_a_damaged_picture_is_404_and_says_so(api: Api, sample: tuple[str, Path], kind: str) -> None:
    address, file = sample
    if kind == "too many pixels":
        whole = bytearray(file.read_bytes())
        whole[16:24] = struct.pack(">II", 60_000, 60_000)
        whole[29:33] = struct.pack(">I", zlib.crc32(whole[12:29]))
        file.write_bytes(whole)
    else:
        text = PngInfo()
        text.add_itxt("rushes", "x" * (2 << 20), zip=True)
        Image.new("RGB", (64, 64)).save(file, pnginfo=text)

    answer = api.http.get(address.replace("/media", "/thumbnail"))
    assert answer.status_code == 404
    assert "damaged" in answer.json()["detail"]


def test_the_numbers_of_a_damaged_lora_are_404_and_keep_no_other_checkpoint_from_being_listed(api: Api) -> None:
    api.queue.redis.flushdb()
    headers = {
        "metadata": {"__metadata__": ["a"]},
        "shape": {"x.lora_down.weight": {"dtype": "F32", "shape": ["a"], "data_offsets": [0, 0]}},
        "fine": {"__metadata__": {"ss_steps": "9" * 5000, "step": "7"}},
    }
    answers = {}
    for number, (name, header) in enumerate(headers.items()):
        text = json.dumps(header).encode()
        path = api.root / f"{name}.safetensors"
        path.write_bytes(struct.pack("<Q", len(text)) + text)
        if name != "fine":
            checkpoint = Checkpoint(path=str(path), fingerprint="0" * 64)
            api.queue.submit([job(number, api.root, checkpoint=checkpoint)])
            answers[name] = api.http.get(f"/v1/samples/{number:032x}/lora")

    assert {name: answer.status_code for name, answer in answers.items()} == {"metadata": 404, "shape": 404}
    assert all("damaged" in answer.json()["detail"] for answer in answers.values())
    listed = api.http.get("/v1/runs/cat/checkpoints").json()["checkpoints"]
    assert {Path(known["path"]).stem: known["step"] for known in listed}["fine"] == 7


@pytest.mark.parametrize("address", ["/", "/web/app.js", "/healthz", "/readyz"])
def test_monitors_may_ask_for_the_head_alone(api: Api, address: str) -> None:
    answer = api.http.head(address)
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["content-type"] == api.http.get(address).headers["content-type"]


def test_a_sample_is_found_where_this_machine_has_the_directory_of_its_trainer(
    redis_server: EmbeddedRedis, tmp_path: Path
) -> None:
    there, name = job(7, Path("/"), output_dir=r"C:\train\out"), r"C:\train\out\sample\cat.png"
    file = picture(tmp_path / "share" / "out" / "sample" / "cat.png")
    (file.parent / "cat.json").write_text('{"seed": 7}')
    picture(tmp_path / "share" / "secret.png")
    with serving(redis_server.url, tmp_path, map=(rf"C:\train={tmp_path / 'share'}",)) as api:
        api.queue.redis.flushdb()
        address = done(api.queue, there, name)
        ended(
            api.queue, there, JobState.DONE, path=name, receipt=r"C:\train\out\sample\cat.json", media_type="image/png"
        )
        assert api.http.get(address).content == file.read_bytes()
        assert api.http.get(address.replace("media", "receipt")).json() == {"seed": 7}
        for path, status in ((r"C:\train\out\..\secret.png", 403), (r"C:\train\secret.png", 403), (r"D:\cat.png", 404)):
            assert api.http.get(done(api.queue, there, path)).status_code == status, path
