"""A sample again, with something changed: the same prompt with another seed, strength, checkpoint or text."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from rushes_service.api.context import InContext
from rushes_service.api.http.problems import documented
from rushes_service.api.routes.samples import ACCEPTED
from rushes_service.api.schemas import ResampleRequest, Sample
from rushes_service.api.services.idempotency import IdempotencyKey, once
from rushes_service.api.services.resubmit import changed

router = APIRouter(prefix="/v1/samples", tags=["samples"])


@router.post(
    "/{id}/resample",
    status_code=202,
    summary="Make a sample again, with changes",
    response_model=Sample,
    responses={**ACCEPTED, **documented(401, 403, 404, 409, 413, 422, 429, 503)},
)
def resample(
    id: str, asked: ResampleRequest, request: Request, context: InContext, key: IdempotencyKey = None
) -> Response:
    """Queue a sample like this one at interactive priority. Without any change it is the same sample, made once."""

    def make() -> Sample:
        job = changed(context.client.get(id), asked, context.roots)
        context.client.submit([job])
        return Sample.of(context.client.get(job.id))

    return once(context, request, key, asked, make, location=lambda sample: f"/v1/samples/{sample.id}")
