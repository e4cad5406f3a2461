"""Server-sent events: order, resuming without loss, filters, and an end at shutdown."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from api_support import Api, announce, job, serving
from rushes.wire import keys
from rushes_service.api.background import feed
from rushes_service.processes.embedded_redis import EmbeddedRedis
from support import wait_until


@dataclass
class Event:
    id: str
    name: str
    data: dict[str, Any]


def events_of(response: httpx.Response) -> Iterator[Event]:
    """Events as a browser reads them."""
    fields: dict[str, str] = {}
    for line in response.iter_lines():
        if line and not line.startswith(":"):
            name, _, value = line.partition(": ")
            fields[name] = value
        elif fields and not line:
            yield Event(fields["id"], fields["event"], json.loads(fields["data"]))
            fields = {}


def take(events: Iterator[Event], count: int) -> list[Event]:
    return [next(events) for _ in range(count)]


def test_what_happens_is_told_in_order_with_the_ids_of_the_stream(api: Api) -> None:
    with api.http.stream("GET", "/v1/events") as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        events = events_of(response)
        assert next(events).name == "ready"
        sample = job(1, api.root)
        api.queue.submit([sample])
        sent = announce(api.queue, "progress", sample.id, stage="denoise", step=3, total=20)
        queued, progress = take(events, 2)

    assert (queued.name, queued.data["id"], queued.data["run"]) == ("queued", sample.id, "cat")
    assert progress.id == sent
    assert progress.data["data"] == {"stage": "denoise", "step": 3, "total": 20}


@pytest.mark.parametrize("how", ["header", "query"])
def test_a_browser_that_comes_back_misses_nothing_and_sees_nothing_twice(api: Api, how: str) -> None:
    with api.http.stream("GET", "/v1/events") as response:
        events = events_of(response)
        next(events)
        announce(api.queue, "started", "a")
        seen = [next(events)]
    for number in range(450):  # more than one read's worth
        announce(api.queue, "progress", "a", step=number)
    back = {"headers": {"Last-Event-ID": seen[-1].id}} if how == "header" else {"params": {"after": seen[-1].id}}
    with api.http.stream("GET", "/v1/events", **back) as response:
        events = events_of(response)
        assert next(events).name == "ready"
        seen += take(events, 450)
        announce(api.queue, "done", "a")
        seen += [next(events)]

    stream = [entry_id for entry_id, _ in api.queue.redis.xrange(keys.EVENTS)]
    assert [event.id for event in seen] == stream


def test_one_that_was_away_for_longer_than_the_server_remembers_misses_nothing(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "KEPT", 20)
    with api.http.stream("GET", "/v1/events") as stays:
        staying = events_of(stays)
        ready = next(staying)
        sent = [announce(api.queue, "progress", "a", step=number) for number in range(450)]
        assert [event.id for event in take(staying, 450)] == sent
        with api.http.stream("GET", "/v1/events", headers={"Last-Event-ID": ready.id}) as back:
            assert [event.id for event in take(events_of(back), 451)] == [ready.id, *sent]


def test_pages_share_one_connection_to_redis(api: Api) -> None:
    def connections() -> int:
        return sum(client["cmd"] == "xread" for client in api.queue.redis.client_list())

    with ExitStack() as pages:
        alone = wait_until(connections, 10, "the API's own watcher")
        for _ in range(20):
            response = pages.enter_context(api.http.stream("GET", "/v1/events"))
            next(events_of(response))
        assert wait_until(lambda: connections() > alone, 10, "the pages' reader")
        assert connections() == alone + 1


def test_one_that_leaves_before_anything_happened_misses_nothing_either(api: Api) -> None:
    announce(api.queue, "started", "before")
    with api.http.stream("GET", "/v1/events") as response:
        ready = next(events_of(response))
    announce(api.queue, "done", "meanwhile")
    with api.http.stream("GET", "/v1/events", headers={"Last-Event-ID": ready.id}) as response:
        events = events_of(response)
        assert [event.data.get("id") for event in take(events, 2)] == [None, "meanwhile"]


@pytest.mark.parametrize("case", ["trimmed away", "from a server that lost its data", "not an id", "beyond 64 bits"])
def test_one_that_cannot_be_told_everything_is_told_to_read_again(api: Api, case: str) -> None:
    old = announce(api.queue, "started", "a")
    kept = announce(api.queue, "progress", "a")
    newest = announce(api.queue, "done", "a")
    api.queue.redis.xtrim(keys.EVENTS, minid=kept, approximate=False)
    after = {
        "trimmed away": old,
        "from a server that lost its data": "99999999999999-0",
        "not an id": "x",
        "beyond 64 bits": f"1-{10**19 * 2}",
    }[case]

    with api.http.stream("GET", "/v1/events", headers={"Last-Event-ID": after}) as response:
        events = events_of(response)
        reset = next(events)
        announce(api.queue, "queued", "b")
        following = next(events)

    assert reset.name == "reset"
    assert following.data["id"] == ("a" if case == "trimmed away" else "b")
    assert reset.id == (old if case == "trimmed away" else newest)


def test_an_event_that_nobody_can_read_keeps_those_behind_it_from_no_one(api: Api) -> None:
    with api.http.stream("GET", "/v1/events") as response:
        events = events_of(response)
        next(events)
        api.queue.redis.xadd(keys.EVENTS, {"type": "done", "id": "a", "run": "cat", "data": "{broken"})
        announce(api.queue, "done", "b")
        assert [(event.data["id"], event.data["data"]) for event in take(events, 2)] == [("a", {}), ("b", {})]


def test_events_of_one_run_can_be_asked_for(api: Api) -> None:
    with api.http.stream("GET", "/v1/events", params={"run": "dog"}) as response:
        events = events_of(response)
        next(events)
        announce(api.queue, "done", "1", run="cat")
        announce(api.queue, "done", "2", run="dog")
        assert next(events).data["id"] == "2"


def test_open_streams_end_when_the_server_stops(redis_server: EmbeddedRedis, tmp_path: Path) -> None:
    with httpx.Client(timeout=60) as browser:
        with serving(redis_server.url, tmp_path) as api:
            response = browser.send(browser.build_request("GET", f"{api.url}/v1/events"), stream=True)
            events = events_of(response)
            next(events)
        # `serving` has seen the server stop by itself; the stream was closed and not cut.
        assert list(events) == []


def test_a_stream_ends_when_redis_goes_away(tmp_path: Path) -> None:
    with EmbeddedRedis(tmp_path / "valkey", 0) as server, serving(server.url, tmp_path) as api:
        with api.http.stream("GET", "/v1/events") as response:
            events = events_of(response)
            next(events)
            server.stop()
            assert list(events) == []
        assert api.http.get("/v1/events").status_code == 503
