"""Old samples back into the gallery: from their receipts, or, for those of a trainer itself, from their names."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from rushes.client.client import Client
from rushes.errors import InputError, OutputError
from rushes.submission.build import run_name
from rushes.wire import keys
from rushes.wire.base import digest, summary
from rushes.wire.connection import reachable
from rushes.wire.jobs import Checkpoint, Prompt, SampleJob
from rushes.wire.models import ModelSpec
from rushes.wire.results import JobState, SampleResult
from rushes.wire.scripts import script
from rushes_service.catalogue.entries import Entry
from rushes_service.media.naming import MEDIA_TYPES, SAMPLE_DIR
from rushes_service.media.receipts import noise_origin, read_receipt, receipt_path

NAME = re.compile(
    r"(?:(?P<name>.+)_)?(?:e(?P<epoch>\d{6,})|(?P<step>\d{6,}))_(?P<index>\d{2,})_(?P<time>\d{14})(?:_(?P<seed>\d+))?(?:_[0-9a-f]{8})?"
)
"""`<output_name>_<e000001|000100>_<index>_<YYYYmmddHHMMSS>[_<seed>]`: how trainers name their samples."""

ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""Ids become parts of addresses."""

BATCH = 500


@dataclass(frozen=True)
class Found:
    """One sample on disk: its job and its result."""

    job: SampleJob
    result: SampleResult
    finished_at: float


def find(directory: Path, run: str | None, prompts: Sequence[Prompt], warn: Any) -> Iterator[Found]:
    """Samples in a trainer's output directory (its folder `sample`, if it has one), by step and prompt.

    Args:
        run: name of the run; None takes the receipts' own.
        prompts: of the run's prompt file, for files without a receipt.
        warn: called with a sentence for each file that is left out.

    Raises:
        InputError: there is no such directory.
    """
    folder = directory / SAMPLE_DIR if (directory / SAMPLE_DIR).is_dir() else directory
    if not folder.is_dir():
        raise InputError(f"{directory}: there is no such directory")
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in MEDIA_TYPES or path.name.startswith("."):
            continue
        try:
            yield from_receipt(path, run) if receipt_path(path).is_file() else from_name(path, directory, run, prompts)
        except (OutputError, InputError, OSError) as error:
            warn(str(error))


def from_receipt(path: Path, run: str | None) -> Found:
    """A sample by the receipt beside it.

    Raises:
        OutputError: the receipt cannot be read.
        InputError: a field that a record needs is missing.
    """
    receipt = read_receipt(receipt_path(path))
    try:
        job = job_of(receipt, path, run)
        parameters = receipt.get("parameters") or {}
        result = SampleResult.of(
            job,
            JobState.DONE,
            **media_fields(path),
            receipt=str(receipt_path(path)),
            width=parameters.get("width"),
            height=parameters.get("height"),
            frame_count=parameters.get("frame_count"),
            fps=parameters.get("fps"),
            seed=parameters.get("seed", job.prompt.seed),
            warnings=tuple(receipt.get("warnings") or ()),
            health=tuple(receipt.get("health") or ()),
            drift=receipt.get("drift"),
            scores=receipt.get("scores") or {},
            worker=receipt.get("worker"),
            seconds=sum((receipt.get("seconds") or {}).values()) or None,
            noise=noise_origin(receipt),
        )
    except (ValidationError, KeyError, TypeError, AttributeError) as error:
        reason = summary(error) if isinstance(error, ValidationError) else repr(error)
        raise InputError(f"{receipt_path(path)} is not a receipt that this version can read: {reason}") from None
    return Found(job, result, path.stat().st_mtime)


def job_of(receipt: dict[str, Any], path: Path, run: str | None) -> SampleJob:
    """The job that a receipt describes.

    Raises:
        InputError: its id cannot be one of a sample.
    """
    if not ID.fullmatch(receipt["id"]):
        raise InputError(f"{receipt_path(path)} is of no sample: its id is {receipt['id']!r}")
    checkpoint = receipt.get("checkpoint")
    return SampleJob(
        id=receipt["id"],
        run=run or receipt["run"],
        submission=receipt.get("submission") or digest([receipt["run"], receipt.get("step", 0)]),
        model=model_of(receipt.get("model") or {}),
        checkpoint=Checkpoint.model_validate(checkpoint) if checkpoint else None,
        prompt=Prompt.model_validate({**receipt["asked"], "seed": receipt["parameters"].get("seed")}),
        draft=(receipt.get("draft") or {}).get("threshold"),
        prompt_index=receipt.get("prompt_index", 0),
        step=receipt.get("step", 0),
        epoch=receipt.get("epoch"),
        output_dir=str(output_of(path)),
        submitted_at=receipt.get("submitted_at", 0.0),
    )


def model_of(described: dict[str, Any]) -> ModelSpec:
    """The base model; fields that this version does not know are ignored."""
    known = {name: value for name, value in described.items() if name in ModelSpec.model_fields}
    return ModelSpec.model_validate({"architecture": "unknown", **known})


def from_name(path: Path, directory: Path, run: str | None, prompts: Sequence[Prompt]) -> Found:
    """A sample that a trainer made itself, by its file name.

    Raises:
        InputError: the name does not follow the convention.
    """
    match = NAME.fullmatch(path.stem)
    if match is None:
        raise InputError(f"{path.name} has no receipt, and its name does not tell step and prompt")
    index = int(match["index"])
    prompt = prompts[index] if index < len(prompts) else Prompt(prompt=f"prompt {index}")
    name = run or run_name(output_of(path), match["name"])
    step = int(match["step"] or 0)
    epoch = int(match["epoch"]) if match["epoch"] else None
    # No step 0 has a checkpoint; the others' files are not known, so the step stands for the content.
    weights = digest([name, step, epoch], 64)
    base = step == 0 and epoch in (None, 0)
    job = SampleJob(
        id=digest([name, path.name], 32),
        run=name,
        submission=digest([name, step, epoch]),
        model=ModelSpec(architecture="unknown"),
        checkpoint=None if base else Checkpoint(path=str(directory), fingerprint=weights),
        prompt=prompt.model_copy(update={"seed": int(match["seed"]) if match["seed"] else prompt.seed}),
        prompt_index=index,
        step=step or epoch or 0,
        epoch=epoch,
        output_dir=str(output_of(path)),
    )
    result = SampleResult.of(job, JobState.DONE, **media_fields(path))
    return Found(job, result, path.stat().st_mtime)


def media_fields(path: Path) -> dict[str, Any]:
    """Path and type of a media file."""
    return {"path": str(path.resolve()), "media_type": MEDIA_TYPES[path.suffix.lower()]}


def output_of(path: Path) -> Path:
    """The output directory that a media file belongs to."""
    folder = path.resolve().parent
    return folder.parent if folder.name == SAMPLE_DIR else folder


def as_entry(found: Found) -> Entry:
    """A sample on disk as the catalogue reads it from Redis."""
    return Entry(
        id=found.job.id,
        state=JobState.DONE.value,
        stage="",
        step=0,
        total=0,
        created_at=found.job.submitted_at,
        finished_at=found.finished_at,
        worker=found.result.worker,
        cancelling=False,
        job=found.job.model_dump(mode="json", exclude_defaults=True),
        result=found.result.model_dump(mode="json", exclude_defaults=True),
    )


def adopt(client: Client, samples: Sequence[Found]) -> int:
    """Record samples that have no record yet; returns their number. Publishes an event for open pages."""
    run_script = client.redis.register_script(script("adopt", package="rushes_service.catalogue"))
    new = 0
    for start in range(0, len(samples), BATCH):
        with reachable(client.url):
            pipeline = client.redis.pipeline(transaction=False)
            for found in samples[start : start + BATCH]:
                job = found.job
                arguments = [job.id, job.run, job.encode(), found.result.encode(), f"{found.finished_at:.3f}"]
                run_script(args=arguments, client=pipeline)
            new += sum(pipeline.execute())
    with reachable(client.url):
        for run in sorted({found.job.run for found in samples}):
            event: Any = {"type": "imported", "id": "", "run": run, "data": "{}"}
            client.redis.xadd(keys.EVENTS, event, maxlen=keys.EVENTS_MAXLEN, approximate=True)
    return new
