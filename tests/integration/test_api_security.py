"""Who gets an answer: the token, the page's cookie, this machine's own names, and no other site's page."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from fastapi.routing import APIRoute

from api_support import Api, done, job, picture, serving
from rushes.errors import ConfigError
from rushes_service.api import create_app
from rushes_service.api.app import ROOMS
from rushes_service.api.http.security import MAX_BODY_BYTES, OPEN_PATHS
from rushes_service.api.routes.page import FILES, WEB
from rushes_service.processes.embedded_redis import EmbeddedRedis
from rushes_service.settings import Settings

SVG = "http://www.w3.org/2000/svg"
"""A name, not an address: nothing is loaded from there."""

TOKEN = "correct horse battery staple"


@pytest.fixture(scope="module")
def api(redis_server: EmbeddedRedis, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with serving(redis_server.url, tmp_path_factory.mktemp("root"), token=TOKEN, host="0.0.0.0") as running:
        yield running


@pytest.fixture(scope="module")
def local(redis_server: EmbeddedRedis, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """An API without a token, on this machine only."""
    with serving(redis_server.url, tmp_path_factory.mktemp("root")) as running:
        yield running


def every_route() -> list[tuple[str, str]]:
    """Method and address of every route of the app and of its OpenAPI document."""
    routes = [route for room in ROOMS for route in room.router.routes if isinstance(route, APIRoute)]
    documented = create_app(Settings()).openapi()["paths"]
    assert set(documented) <= {route.path_format for route in routes}, "a router is missing in this list"
    found = [(method, route.path_format) for route in routes for method in sorted(route.methods)]
    return [
        ("GET", "/openapi.json"),
        *((method, path.format(id="x", name="app.js", run="r")) for method, path in found),
    ]


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {TOKEN}"}])
def test_no_route_but_the_health_checks_answers_without_the_token(api: Api, headers: dict[str, str]) -> None:
    with httpx.Client(base_url=api.url, headers=headers, timeout=60) as stranger:
        for method, address in every_route():
            answer = stranger.request(method, address)
            if address in OPEN_PATHS:
                assert answer.status_code == 200, address
                continue
            assert answer.status_code == 401, (method, address)
            assert answer.headers["www-authenticate"] == "Bearer"
        assert stranger.get("/nowhere").status_code == 401


@pytest.mark.parametrize("given", [TOKEN, "wrong", ""])
def test_a_token_in_an_address_is_for_the_page_alone(api: Api, given: str) -> None:
    """Addresses end in logs, histories and Referer headers: elsewhere even the right token does not count there."""
    with httpx.Client(base_url=api.url, timeout=60) as stranger:
        for method, address in every_route():
            if address in OPEN_PATHS or address == "/":
                continue
            answer = stranger.request(method, address, params={"token": given})
            assert answer.status_code == 401, (method, address)


def test_a_token_may_be_of_any_alphabet(redis_server: EmbeddedRedis, tmp_path: Path) -> None:
    with serving(redis_server.url, tmp_path, token="clé 鍵") as api:
        assert api.http.get("/v1/samples").status_code == 200
        assert httpx.get(f"{api.url}/v1/samples", headers={"Authorization": "Bearer cl"}, timeout=60).status_code == 401


def test_media_need_the_token_like_everything_else(api: Api) -> None:
    address = done(api.queue, job(1, api.root), picture(api.root / "a.png"))

    assert httpx.get(api.url + address, timeout=60).status_code == 401
    assert api.http.get(address).status_code == 200


def test_a_browser_trades_the_token_for_a_cookie_once(api: Api) -> None:
    with httpx.Client(base_url=api.url, timeout=60) as browser:
        answer = browser.get("/", params={"token": TOKEN})
        cookie = answer.headers["set-cookie"]

        assert answer.status_code == 303
        assert answer.next_request is not None
        assert str(answer.next_request.url) == f"{api.url}/"
        assert "HttpOnly" in cookie
        assert "samesite=strict" in cookie.lower()
        assert TOKEN not in cookie
        assert answer.headers["referrer-policy"] == "no-referrer"
        for address in ("/", "/web/app.js", "/v1/samples"):
            assert browser.get(address).status_code == 200, address


@pytest.mark.parametrize("query", ["token=wrong", "token=", "xtoken=1", f"token={TOKEN}&token=wrong"])
def test_a_wrong_token_opens_no_page(api: Api, query: str) -> None:
    answer = httpx.get(f"{api.url}/?{query}", timeout=60)

    assert answer.status_code == 401
    assert "set-cookie" not in answer.headers


def test_a_forged_cookie_opens_nothing(api: Api) -> None:
    for value in (TOKEN, "0" * 64, "", '"'):
        assert (
            httpx.get(f"{api.url}/v1/runs", headers={"Cookie": f"rushes_session={value}"}, timeout=60).status_code
            == 401
        )


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "::", "gpu-box.lan", ""])
def test_listening_beyond_this_machine_needs_a_token(host: str) -> None:
    with pytest.raises(ConfigError, match="RUSHES_TOKEN"):
        create_app(Settings(host=host))
    with pytest.raises(ConfigError, match="RUSHES_TOKEN"):
        create_app(Settings(host=host, token=""))  # type: ignore[arg-type]
    create_app(Settings(host=host, token="secret"))  # type: ignore[arg-type]


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_this_machine_alone_needs_none(host: str) -> None:
    create_app(Settings(host=host))


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "evil.example:8720", "", "[", "localhost."])
def test_a_name_that_was_pointed_at_this_machine_gets_no_answer(local: Api, host: str) -> None:
    for address in ("/", "/v1/samples", "/healthz"):
        assert local.http.get(address, headers={"Host": host}).status_code == 421, address


@pytest.mark.parametrize("host", ["localhost", "localhost:9999", "127.0.0.1", "[::1]:8720", "LOCALHOST"])
def test_the_names_of_this_machine_do(local: Api, host: str) -> None:
    assert local.http.get("/v1/samples", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost:1", "http://["])
def test_a_page_of_another_site_cannot_ask_for_samples_or_cancel_them(local: Api, origin: str) -> None:
    body = '{"architecture": "wan2.1-t2v", "prompt": "a cat"}'
    headers = {"Origin": origin, "Content-Type": "application/json"}

    assert local.http.post("/v1/samples", content=body, headers=headers).status_code == 403
    assert local.http.delete("/v1/samples/x", headers=headers).status_code == 403
    own = {**headers, "Origin": local.url}
    assert local.http.post("/v1/samples", content=body, headers=own).status_code == 202


def test_a_body_without_its_content_type_is_not_taken_for_json(local: Api) -> None:
    body = b'{"architecture": "wan2.1-t2v", "prompt": "a cat"}'

    answer = local.http.post("/v1/samples", content=body, headers={"Content-Type": "text/plain"})
    assert answer.status_code == 422
    assert "Content-Type: application/json" in answer.json()["detail"]


def test_a_huge_body_is_refused_with_and_without_its_length(local: Api) -> None:
    huge = b" " * (MAX_BODY_BYTES + 1)
    headers = {"Content-Type": "application/json"}

    assert local.http.post("/v1/samples", content=huge, headers=headers).status_code == 413
    pieces = (huge[start : start + 65536] for start in range(0, len(huge), 65536))
    answer = local.http.post("/v1/samples", content=pieces, headers=headers)
    assert answer.status_code == 413
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(("method", "address", "status"), [("GET", "/nowhere", 404), ("PUT", "/v1/samples", 405)])
def test_what_does_not_exist_is_a_problem_too(local: Api, method: str, address: str, status: int) -> None:
    answer = local.http.request(method, address)

    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["status"] == status


def test_the_page_may_load_nothing_from_elsewhere(local: Api) -> None:
    page = local.http.get("/")

    assert page.headers["content-type"].startswith("text/html")
    policy = page.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    assert page.headers["x-content-type-options"] == "nosniff"
    for address in re.findall(r'(?:src|href)="([^"]+)"', page.text):
        assert local.http.get(f"/{address}").status_code == 200, address
    for name in FILES:
        text = local.http.get(f"/web/{name}").text.replace(SVG, "")
        assert "://" not in text, name


def test_the_page_never_inserts_data_as_html() -> None:
    for script in WEB.glob("*.js"):
        found = re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|DOMParser", script.read_text()
        )
        assert not found, (script.name, found)
