"""The OpenAPI document: every route with examples that are true to their schemas."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from rushes_service.api import create_app
from rushes_service.api.http.problems import MEDIA_TYPE
from rushes_service.api.schemas import EXAMPLE_FIELDS, EXAMPLE_LINE, EXAMPLE_SAMPLE, Sample, SampleRequest
from rushes_service.settings import Settings

DOCUMENT = create_app(Settings(token="secret")).openapi()  # type: ignore[arg-type]


def operations() -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in DOCUMENT["paths"].items():
        for method, operation in methods.items():
            yield f"{method} {path}", operation


def check(value: Any, schema: dict[str, Any]) -> None:
    """Hold a value against a schema of the document."""
    Draft202012Validator({**schema, "components": DOCUMENT["components"]}).validate(value)


@pytest.mark.parametrize("name", sorted(DOCUMENT["components"]["schemas"]))
def test_examples_are_valid(name: str) -> None:
    schema = DOCUMENT["components"]["schemas"][name]
    for example in schema.get("examples", []):
        check(example, schema)


@pytest.mark.parametrize("name", ["SampleRequest", "Sample", "SamplePage", "Runs", "Workers", "Health"])
def test_every_body_has_an_example(name: str) -> None:
    assert DOCUMENT["components"]["schemas"][name]["examples"]


def test_the_examples_are_what_the_code_itself_reads() -> None:
    SampleRequest.model_validate(EXAMPLE_LINE)
    SampleRequest.model_validate(EXAMPLE_FIELDS)
    sample = Sample.model_validate(EXAMPLE_SAMPLE)
    assert sample.media == Sample.of(sample).media


@pytest.mark.parametrize(("name", "operation"), list(operations()))
def test_every_operation_is_described_with_its_problems(name: str, operation: dict[str, Any]) -> None:
    assert operation["summary"]
    assert operation["description"]
    problems = {status: answer for status, answer in operation["responses"].items() if status >= "400"}
    assert name == "get /healthz" or "503" in problems
    assert "health" in operation["tags"] or "401" in problems
    for status, answer in problems.items():
        content = answer["content"]
        assert list(content) == [MEDIA_TYPE], (name, status)
        check(content[MEDIA_TYPE]["example"], content[MEDIA_TYPE]["schema"])
        assert content[MEDIA_TYPE]["example"]["status"] == int(status)


def test_no_reference_leads_nowhere() -> None:
    text = str(DOCUMENT)
    for part in text.split("#/components/schemas/")[1:]:
        assert part.split("'")[0] in DOCUMENT["components"]["schemas"]
