"""What a client may do to the API without harm: too much, too often, too slowly, too many at once, out of bounds."""

from __future__ import annotations

import asyncio
import json
import socket
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from api_support import Api, announce, ended, job, picture, serving
from rushes.wire import keys
from rushes.wire.results import JobState
from rushes_service.api.http import security
from rushes_service.api.http.limits import RateLimit
from rushes_service.api.http.security import MAX_UPLOAD_BYTES
from rushes_service.processes.embedded_redis import EmbeddedRedis

LISTENERS = 200
RECORDS = 10_000
"""`docs/api.md` has how long a hundred thousand take; what is answered is the same."""


def raw(api: Api, head: str) -> socket.socket:
    """A connection on which the head of a request has been sent, and nothing of its body."""
    where = urlsplit(api.url)
    connection = socket.create_connection((where.hostname, where.port), timeout=20)
    connection.sendall(f"{head}\r\nHost: localhost\r\nContent-Type: application/json\r\n".encode())
    return connection


def status(connection: socket.socket) -> str:
    with connection:
        return connection.recv(4096).split(b"\r\n")[0].decode().split()[1]


def test_an_upload_that_is_too_large_is_refused_before_it_is_sent(api: Api) -> None:
    connection = raw(api, "POST /v1/uploads HTTP/1.1")
    connection.sendall(f"Content-Length: {MAX_UPLOAD_BYTES + 1}\r\n\r\n".encode())

    assert status(connection) == "413"


def test_a_body_that_never_comes_holds_nobody_up(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(security, "BODY_WAIT_S", 0.3)
    slow = [raw(api, "POST /v1/samples HTTP/1.1") for _ in range(50)]
    for connection in slow:
        connection.sendall(b"Content-Length: 100\r\n\r\n{")

    assert api.http.get("/v1/samples").status_code == 200
    assert {status(connection) for connection in slow} == {"408"}


def test_changes_are_limited_per_minute_and_reading_is_not(redis_server: EmbeddedRedis, tmp_path: Path) -> None:
    with serving(redis_server.url, tmp_path, rate_limit=3) as api:
        answers = [api.http.delete("/v1/samples/x") for _ in range(4)]
        assert [answer.status_code for answer in answers] == [404, 404, 404, 429]
        assert int(answers[-1].headers["retry-after"]) >= 1
        assert answers[-1].json()["type"] == "urn:rushes:too_many_requests"
        assert api.http.get("/v1/samples").status_code == 200


def test_a_bucket_fills_again_and_each_client_has_its_own() -> None:
    now = 0.0
    limit = RateLimit(60, clock=lambda: now)
    assert [limit.wait_s("a") for _ in range(60)] == [0.0] * 60
    assert limit.wait_s("a") == pytest.approx(1.0)
    assert limit.wait_s("b") == 0.0
    now = 1.0
    assert limit.wait_s("a") == 0.0
    assert RateLimit(0).wait_s("a") == 0.0


def test_two_hundred_pages_hear_every_event(api: Api) -> None:
    async def listen(client: httpx.AsyncClient, ready: asyncio.Queue[None]) -> list[str]:
        heard: list[str] = []
        async with client.stream("GET", "/v1/events") as response:
            async for line in response.aiter_lines():
                if line == "event: ready":
                    ready.put_nowait(None)
                if line.startswith("data: ") and '"type"' in line:
                    heard.append(json.loads(line[6:])["data"]["number"])
                if len(heard) == 3:
                    return heard
        return heard

    async def run() -> list[list[str]]:
        limits = httpx.Limits(max_connections=LISTENERS)
        async with httpx.AsyncClient(base_url=api.url, timeout=60, limits=limits) as client:
            ready: asyncio.Queue[None] = asyncio.Queue()
            listeners = [asyncio.create_task(listen(client, ready)) for _ in range(LISTENERS)]
            for _ in range(LISTENERS):
                await asyncio.wait_for(ready.get(), 60)
            for number in range(3):
                announce(api.queue, "progress", "a", number=number)
            return await asyncio.gather(*listeners)

    assert asyncio.run(run()) == [[0, 1, 2]] * LISTENERS
    assert api.http.get("/v1/samples").status_code == 200


def fill(api: Api, count: int) -> None:
    """Records as they are in Redis, without the events and lanes of submission."""
    redis = api.queue.redis
    for start in range(0, count, 5000):
        pipeline = redis.pipeline(transaction=False)
        for number in range(start, start + 5000):
            sample = job(number, api.root, run=f"run-{number % 5}", step=number // 20, prompt_index=number % 20)
            state = "failed" if number % 1000 == 0 else "done"
            fields = {
                "payload": sample.encode(),
                "run": sample.run,
                "state": state,
                "created_at": f"{1e9 + number:.6f}",
            }
            pipeline.hset(keys.job(sample.id), mapping=fields)
            pipeline.expire(keys.job(sample.id), 3600)
            pipeline.zadd(keys.INDEX, {sample.id: 1e9 + number})
            pipeline.zadd(keys.run(sample.run), {sample.id: 1e9 + number})
            pipeline.zadd(keys.RUNS, {sample.run: 1e9 + number})
        pipeline.execute()


def test_ten_thousand_samples_are_listed_filtered_and_shown(api: Api) -> None:
    fill(api, RECORDS)

    assert len(api.http.get("/v1/samples", params={"limit": 200}).json()["samples"]) == 200
    failed: list[str] = []
    cursor: dict[str, str] = {}
    while True:
        page = api.http.get("/v1/samples", params={"state": "failed", "limit": 4, **cursor}).json()
        failed += [sample["id"] for sample in page["samples"]]
        if page["next"] is None:
            break
        cursor = {"cursor": page["next"]}
    assert len(failed) == len(set(failed)) == RECORDS // 1000
    assert [run["samples"] for run in api.http.get("/v1/runs").json()["runs"]] == [RECORDS // 5] * 5
    assert sum(api.http.get("/v1/runs/run-0").json()["states"].values()) == RECORDS // 5
    shown = api.http.get("/v1/runs/run-1/grid").json()
    assert (len(shown["cells"]), shown["truncated"]) == (RECORDS // 5, False)


@pytest.mark.parametrize(
    "address",
    [
        "/web/../app.py",
        "/web/%2e%2e/api/app.py",
        "/web/..%2fapi%2fapp.py",
        "/web/%2fetc%2fpasswd",
        "/web//etc/passwd",
        "/v1/samples/..%2f..%2fetc%2fpasswd/media",
        "/v1/samples/../../etc/passwd/receipt",
    ],
)
def test_no_address_leads_out_of_what_is_served(api: Api, address: str) -> None:
    connection = raw(api, f"GET {address} HTTP/1.1")
    connection.sendall(b"\r\n")

    assert status(connection) == "404"


def test_a_still_follows_no_link_out_of_the_output_directory(
    api: Api, tmp_path_factory: pytest.TempPathFactory
) -> None:
    secret = picture(tmp_path_factory.mktemp("elsewhere") / "secret.png")
    sample = job(1, api.root)
    api.queue.submit([sample])
    (api.root / "a.png").symlink_to(secret)
    ended(api.queue, sample, JobState.DONE, path=str(api.root / "a.png"), media_type="image/png")

    assert api.http.get(f"/v1/samples/{sample.id}/thumbnail").status_code == 403
