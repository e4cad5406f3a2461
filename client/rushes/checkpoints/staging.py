"""Samples for workers that share no file system with the trainer: what they need is put into a store first.

    <staging>/<run>/.rushes/checkpoints/<sha256>.safetensors   removed when its last sample has ended
    <staging>/<run>/.rushes/inputs/<sha256>/<name>             pictures that prompts name, further LoRAs; they stay
    <staging>/<run>/sample/...                                 media and receipts, which the worker writes

Names are made from content, so a hand-off that is repeated uploads nothing twice, and every reader of a file can
verify it. It is done by whoever hands samples over: for a training loop that is the outbox thread.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Generator, Iterable
from pathlib import Path
from urllib.parse import quote

from rushes._paths import PRIVATE_DIR, SNAPSHOT_DIR
from rushes._platform import open_shared
from rushes.checkpoints.adapters import adapter_files, checkpoint_fingerprint, is_checkpoint_directory, pack_into
from rushes.checkpoints.safetensors import fingerprint
from rushes.checkpoints.store import Store, is_url, store_of
from rushes.errors import CheckpointError, CheckpointMissing
from rushes.wire.job_files import prompt_with
from rushes.wire.jobs import Checkpoint, ExtraLora, SampleJob

INPUT_DIR = f"{PRIVATE_DIR}/inputs"


def home_of(staging: str, run: str) -> str:
    """URL below which everything of a run lies."""
    name = quote(run, safe="")
    return f"{staging}/{name.replace('.', '%2E', 1) if name.startswith('.') else name}"


def snapshots_of(staging: str, run: str) -> str:
    """URL of the directory that holds a run's checkpoints until they are sampled."""
    return f"{home_of(staging, run)}/{SNAPSHOT_DIR}"


def stage(jobs: Iterable[SampleJob]) -> tuple[list[SampleJob], list[tuple[SampleJob, CheckpointError]]]:
    """Samples as any machine can make them, and those whose checkpoint is gone. Uploads what is not there yet.

    Samples that are not to be staged, or are already, stay as they are.

    Raises:
        StagingError: the store cannot be reached.
    """
    ready: list[SampleJob] = []
    lost: list[tuple[SampleJob, CheckpointError]] = []
    known: dict[str, str] = {}
    for job in jobs:
        try:
            ready.append(staged(job, known))
        except CheckpointError as error:
            lost.append((job, error))
    return ready, lost


def staged(job: SampleJob, known: dict[str, str]) -> SampleJob:
    """One sample, its files in the store. `known` are files that were put there already, with their URLs."""
    if job.staging is None or is_url(job.output_dir):
        return job
    store, home = store_of(job.staging), home_of(job.staging, job.run)

    def name(path: str) -> str:
        if path not in known:
            known[path] = put_input(store, Path(path), home)
        return known[path]

    def lora_name(lora: ExtraLora) -> str:
        if lora.path not in known:
            known[lora.path] = put_lora(store, lora, home)
        return known[lora.path]

    checkpoint = job.checkpoint
    if checkpoint is not None and checkpoint.path not in known:
        known[checkpoint.path] = put_checkpoint(store, checkpoint, home)
    return job.model_copy(
        update={
            "checkpoint": checkpoint and staged_checkpoint(checkpoint, known[checkpoint.path]),
            "loras": tuple(lora.model_copy(update={"path": lora_name(lora)}) for lora in job.loras),
            "prompt": prompt_with(job.prompt, name),
            "output_dir": home,
        }
    )


def uploaded(jobs: Iterable[SampleJob]) -> set[str]:
    """Snapshots on this machine that nobody needs any more, now that samples of theirs have been handed over."""
    staged = (job.checkpoint for job in jobs if job.staging and not is_url(job.output_dir))
    return {checkpoint.path for checkpoint in staged if checkpoint and checkpoint.snapshot}


def staged_checkpoint(checkpoint: Checkpoint, url: str) -> Checkpoint:
    """The checkpoint at its URL. Ours to remove, like any snapshot."""
    source = checkpoint.source or checkpoint.path
    return checkpoint.model_copy(update={"path": url, "source": source, "snapshot": True})


def put_checkpoint(store: Store, checkpoint: Checkpoint, home: str) -> str:
    """Upload a checkpoint unless it is there; its URL.

    Raises:
        CheckpointMissing: neither the snapshot nor what the trainer wrote is there with this content.
    """
    url = f"{home}/{SNAPSHOT_DIR}/{checkpoint.fingerprint}.safetensors"
    there = store.size(url)
    for place in (checkpoint.path, checkpoint.source):
        if place is None or not Path(place).exists():
            continue
        # A snapshot is named by its content; what the trainer wrote may have been written again since.
        if place == checkpoint.source and content_of(Path(place)) != checkpoint.fingerprint:
            continue
        with weights_file(Path(place)) as file:
            if there != file.stat().st_size:
                store.put(file, url)
        return url
    if there is None:
        raise CheckpointMissing(f"{checkpoint.path}: the checkpoint was deleted before it could be uploaded to {home}")
    return url


def put_lora(store: Store, lora: ExtraLora, home: str) -> str:
    """Upload a LoRA that is merged beside the checkpoint, as one file, unless it is there; its URL.

    What is not on this machine keeps its name: it may be on the worker's.
    """
    path = Path(lora.path)
    if not path.exists():
        return lora.path
    url = f"{home}/{INPUT_DIR}/{content_of(path)}/{quote(path.name.removesuffix('.safetensors'))}.safetensors"
    with weights_file(path) as file:
        if store.size(url) != file.stat().st_size:
            store.put(file, url)
    return url


def put_input(store: Store, path: Path, home: str) -> str:
    """Upload a file, or a directory with its files, unless it is there; its URL, a directory's with a slash at its end.

    What is not on this machine keeps its name: it may be on the worker's.
    """
    if not path.exists():
        return str(path)
    files = {file.relative_to(path): file for file in path.rglob("*") if file.is_file()} if path.is_dir() else {}
    url = f"{home}/{INPUT_DIR}/{content_of(path)}/{quote(path.name)}"
    for name, file in sorted(files.items()) or [(None, path)]:
        target = f"{url}/{quote(name.as_posix())}" if name else url
        if store.size(target) != file.stat().st_size:
            store.put(file, target)
    return f"{url}/" if files else url


def content_of(path: Path) -> str:
    """SHA-256 of a file; of a directory, that of its files' names and hashes (of an adapter, of the file it becomes).

    Raises:
        CheckpointError: it cannot be read.
    """
    if not path.is_dir() or is_checkpoint_directory(path):
        return checkpoint_fingerprint(path)
    return combined(
        {file.relative_to(path).as_posix(): fingerprint(file) for file in path.rglob("*") if file.is_file()}
    )


def combined(hashes: dict[str, str]) -> str:
    """One hash for the files of a directory, from their names and hashes."""
    lines = [f"{quote(name)} {sha256}\n" for name, sha256 in sorted(hashes.items())]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


@contextlib.contextmanager
def weights_file(path: Path) -> Generator[Path]:
    """The one file of a checkpoint; an adapter with a configuration beside it becomes one for as long as this lasts."""
    weights, config = adapter_files(path)
    if config is None:
        yield weights
        return
    with tempfile.TemporaryDirectory(prefix="rushes-adapter-") as directory:
        descriptor = open_shared(weights)
        try:
            yield pack_into(Path(directory) / "adapter.safetensors", weights, descriptor, config)
        finally:
            os.close(descriptor)
