"""The API against its own OpenAPI document: what the document allows is answered, and as it says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from api_support import Api, done, job, picture, serving
from gallery_support import paint_run
from rushes_service.api import create_app
from rushes_service.processes.embedded_redis import EmbeddedRedis
from rushes_service.settings import Settings

TOKEN = "contract"
EXAMPLES = 8
"""Requests per operation: with two dozen operations, about a minute."""

CHECKS = (
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
)


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """An API with a run of real files, one queued sample, and a token."""
    root = tmp_path_factory.mktemp("root")
    with (
        EmbeddedRedis(tmp_path_factory.mktemp("valkey"), 0) as server,
        serving(server.url, root, token=TOKEN, rate_limit=0) as running,
    ):
        paint_run(running.queue, "cut", root, (0, 100), prompts=["a boat"], stop=1)
        done(running.queue, job(1, root), picture(root / "a.png"))
        yield running


schema = schemathesis.openapi.from_dict(create_app(Settings(token=TOKEN)).openapi()).exclude(
    path="/v1/events"  # its answer has no end
)


@schema.parametrize()
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
    derandomize=True,
)
def test_every_operation_does_what_the_document_says(case: schemathesis.Case, api: Api) -> None:
    answer = case.call(base_url=api.url, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=20)

    case.validate_response(answer, checks=list(CHECKS))


def test_real_samples_conform_too(api: Api) -> None:
    """What is generated seldom hits a sample that exists: these do."""
    for address in ("/v1/samples", "/v1/runs", "/v1/runs/cut", "/v1/runs/cut/grid", "/v1/runs/cut/checkpoints"):
        assert api.http.get(address).status_code == 200, address
    finished = api.http.get("/v1/samples", params={"state": "done"}).json()["samples"]
    for sample in finished:
        for part in ("media", "thumbnail"):
            assert api.http.get(f"/v1/samples/{sample['id']}/{part}").status_code == 200


def test_no_file_appears_outside_the_roots(api: Api, tmp_path: Path) -> None:
    assert list(tmp_path.iterdir()) == []
