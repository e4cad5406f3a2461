"""What travels between versions of Rushes, as one JSON text, written by `python tests/house/wire_snapshot.py`.

A change of the protocol shows in review as a change of `tests/data/wire.json`. Before it is taken: does this version
still read what the version before wrote (`test_older_versions.py`), and is what an older worker would misread a new
`WIRE_VERSION`?
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import redis as redis_py
from pydantic import BaseModel

from rushes.submission.build import Refused
from rushes.submission.spool import Submission
from rushes.training.handoffs import Note
from rushes.wire.jobs import Checkpoint, ExtraLora, Prompt, SampleJob, VaeOptions
from rushes.wire.models import ModelSpec
from rushes.wire.results import JobError, JobRecord, JobState, SampleResult

SNAPSHOT = Path(__file__).parents[1] / "data" / "wire.json"

WIRE_TYPES = (ModelSpec, VaeOptions, Prompt, Checkpoint, ExtraLora, SampleJob, JobError, SampleResult, JobRecord)

JOB = SampleJob(
    id="0" * 32,
    run="run",
    submission="1" * 16,
    model=ModelSpec(architecture="wan2.1-t2v", model="/models/wan"),
    vae=VaeOptions(tiling=True),
    checkpoint=Checkpoint(path="/out/.rushes/checkpoints/a.safetensors", fingerprint="a" * 64, snapshot=True),
    loras=(ExtraLora(path="/loras/style.safetensors", fingerprint="b" * 64, strength=0.5),),
    prompt=Prompt(prompt="a cat", width=64, seed=1),
    step=10,
    output_dir="/out",
    output_name="lora",
    submitted_at=1.7e9,
)
RESULT = SampleResult.of(
    JOB, JobState.DONE, path="/out/sample/a.png", receipt="/out/sample/a.json", media_type="image/png", worker="w"
)


def messages() -> dict[str, Any]:
    """One of each message, as it is written."""
    refused = [Refused(JOB, JobError(code="prompt", message="no such picture"))]
    note = Note("run", 10, None, "/out/.rushes/checkpoints/1.pending.safetensors", None, "host", 1)
    return {
        "job": json.loads(JOB.encode()),
        "result": json.loads(RESULT.encode()),
        "spooled submission": sorted(json.loads(Submission([JOB], refused).encode())),
        "note of a hand-off": sorted(vars(note)),
    }


def redis_after_a_sample(url: str) -> dict[str, Any]:
    """Type and fields of every key, while one sample is done, one runs and one waits."""
    from rushes import Client
    from rushes_service.queue import Queue

    connection = redis_py.Redis.from_url(url, decode_responses=True)
    client, queue = Client(url), Queue(url, worker="w", lease_s=60)
    client.submit([JOB.model_copy(update={"id": f"{number:032d}"}) for number in range(3)])
    done, running = queue.reserve(), queue.reserve()
    assert done is not None
    assert running is not None
    queue.finish(done, JobState.DONE, RESULT)
    found = {key.replace(JOB.model.fingerprint, "<model>"): fields(connection, key) for key in connection.scan_iter()}
    for closing in (client, queue.redis, connection):
        closing.close()
    return dict(sorted(found.items()))


def fields(connection: Any, key: str) -> Any:
    """What a key holds, less its values."""
    match kind := connection.type(key):
        case "hash":
            return {kind: sorted(connection.hkeys(key))}
        case "stream":
            return {kind: sorted({name for _, entry in connection.xrange(key) for name in entry})}
    return kind


def snapshot(url: str) -> str:
    """The whole protocol as text.

    Args:
        url: an empty Redis.
    """
    types = {kind.__name__: described(kind) for kind in WIRE_TYPES}
    return json.dumps({"messages": messages(), "redis": redis_after_a_sample(url), "types": types}, indent=1) + "\n"


def described(kind: type[BaseModel]) -> dict[str, str]:
    """Every field of a wire type: what it may be, and its default."""
    return {
        name: re.sub(r"rushes\.wire\.\w+\.", "", f"{field.annotation}")
        + f"{'' if field.is_required() else f' = {field.default!r}'}"
        f"{f' ({field.metadata})' if field.metadata else ''}"
        for name, field in kind.model_fields.items()
    }


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from rushes_service.processes.embedded_redis import EmbeddedRedis

    with tempfile.TemporaryDirectory() as directory, EmbeddedRedis(Path(directory), 0) as server:
        SNAPSHOT.write_text(snapshot(server.url), encoding="utf-8")
