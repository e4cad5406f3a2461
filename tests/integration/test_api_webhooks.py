"""Webhooks: signed, told once, tried again, and not lost while the API is away."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from api_support import announce, serving
from rushes.errors import ConfigError
from rushes.wire import keys
from rushes_service.api import create_app
from rushes_service.api.background import webhooks
from rushes_service.api.background.webhooks import GROUP, key_of, signature
from rushes_service.processes.embedded_redis import EmbeddedRedis
from rushes_service.settings import Settings
from support import wait_until

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


@dataclass
class Endpoint:
    """A web server that remembers what it was told; answers the statuses of `statuses` first, then 204."""

    url: str = ""
    statuses: list[int] = field(default_factory=list)
    heard: list[tuple[dict[str, str], bytes]] = field(default_factory=list)


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    found = Endpoint()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            found.heard.append(({name.lower(): value for name, value in self.headers.items()}, body))
            status = found.statuses.pop(0) if found.statuses else 204
            self.send_response(status)
            self.send_header("Location", "/elsewhere")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        found.url = f"http://127.0.0.1:{server.server_port}/hook"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield found
        server.shutdown()
        thread.join()


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[EmbeddedRedis]:
    with EmbeddedRedis(tmp_path / "valkey", 0) as server:
        yield server


def following(api: object) -> None:
    redis = api.queue.redis  # type: ignore[attr-defined]
    wait_until(lambda: redis.exists(keys.EVENTS) and redis.xinfo_groups(keys.EVENTS), 10, "the webhooks to follow")


def test_an_end_is_told_with_a_signature_that_holds(
    redis_server: EmbeddedRedis, tmp_path: Path, endpoint: Endpoint
) -> None:
    with serving(redis_server.url, tmp_path, webhook_url=endpoint.url, webhook_secret=SECRET) as api:
        following(api)
        announce(api.queue, "progress", "a", step=1)
        event = announce(api.queue, "done", "a", path="/a.mp4")
        wait_until(lambda: endpoint.heard, 10, "the webhook")

    ((headers, body),) = endpoint.heard
    told = json.loads(body)
    assert (told["type"], told["data"]["id"], told["data"]["path"]) == ("sample.done", "a", "/a.mp4")
    assert headers["webhook-id"] == event
    signed = f"{event}.{headers['webhook-timestamp']}.".encode() + body
    key = base64.b64decode(SECRET.removeprefix("whsec_"))
    assert headers["webhook-signature"] == "v1," + base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()


def test_the_signature_is_that_of_standard_webhooks() -> None:
    """The example of the specification's reference implementations."""
    made = signature(key_of(SECRET), "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", b'{"test": 2432232314}')
    assert made == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_a_refusal_is_tried_again_and_a_redirection_is_not_followed(
    redis_server: EmbeddedRedis, tmp_path: Path, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks, "PAUSES_S", (0.01, 0.01, 0.01))
    endpoint.statuses = [500, 302]
    with serving(redis_server.url, tmp_path, webhook_url=endpoint.url, webhook_secret=SECRET) as api:
        following(api)
        announce(api.queue, "failed", "a")
        wait_until(lambda: len(endpoint.heard) == 3, 10, "the third try")
        announce(api.queue, "dead", "b")
        wait_until(lambda: len(endpoint.heard) == 4, 10, "the next webhook")

    assert len({headers["webhook-id"] for headers, _ in endpoint.heard[:3]}) == 1
    assert [json.loads(body)["data"]["id"] for _, body in endpoint.heard] == ["a", "a", "a", "b"]


def test_what_an_api_that_stops_could_not_deliver_is_left_for_the_next_one(
    redis_server: EmbeddedRedis, tmp_path: Path, endpoint: Endpoint
) -> None:
    endpoint.statuses = [500]
    with serving(redis_server.url, tmp_path, webhook_url=endpoint.url, webhook_secret=SECRET) as api:
        following(api)
        announce(api.queue, "done", "a")
        wait_until(lambda: endpoint.heard, 10, "the first try")
    with serving(redis_server.url, tmp_path) as quiet:
        pending = quiet.queue.redis.xpending(keys.EVENTS, GROUP)["pending"]
    assert (pending, len(endpoint.heard)) in ((1, 1), (0, 2)), "left, or delivered at the second try"


def test_what_ends_while_no_api_runs_is_told_when_one_does_and_by_one_only(
    redis_server: EmbeddedRedis, tmp_path: Path, endpoint: Endpoint
) -> None:
    hooked = {"webhook_url": endpoint.url, "webhook_secret": SECRET}
    with serving(redis_server.url, tmp_path, **hooked) as api:
        following(api)
        announce(api.queue, "done", "first")
        wait_until(lambda: endpoint.heard, 10, "the first webhook")
        announce(api.queue, "done", "last before")
        wait_until(lambda: len(endpoint.heard) == 2, 10, "the second webhook")
    with serving(redis_server.url, tmp_path) as quiet:
        announce(quiet.queue, "done", "meanwhile")
    with serving(redis_server.url, tmp_path, **hooked), serving(redis_server.url, tmp_path, **hooked) as other:
        announce(other.queue, "done", "after")
        wait_until(lambda: len(endpoint.heard) == 4, 20, "both webhooks")
        redis = other.queue.redis
        wait_until(lambda: redis.xpending(keys.EVENTS, GROUP)["pending"] == 0, 10, "every event to be dealt with")
    told = [json.loads(body)["data"]["id"] for _, body in endpoint.heard]
    assert sorted(told) == ["after", "first", "last before", "meanwhile"]


@pytest.mark.parametrize(
    ("url", "secret", "words"),
    [
        ("ftp://x", SECRET, "RUSHES_WEBHOOK_URL"),
        ("http://x", None, "RUSHES_WEBHOOK_SECRET"),
        ("http://x", "whsec_c2hvcnQ=", "RUSHES_WEBHOOK_SECRET"),
        ("http://x", "not base64!", "RUSHES_WEBHOOK_SECRET"),
    ],
)
def test_a_webhook_that_cannot_work_is_a_sentence_at_the_start(url: str, secret: str | None, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        create_app(Settings(webhook_url=url, webhook_secret=secret))  # type: ignore[arg-type]
