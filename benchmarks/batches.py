"""What the benchmarks of whole samples share: jobs with new checkpoints, a worker's process, the peers' loops."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import WanPipeline
from diffusers.utils import export_to_video
from safetensors.torch import load_file, save_file

from rushes import Client
from rushes.checkpoints.safetensors import fingerprint
from rushes.wire.jobs import Checkpoint, Prompt, SampleJob
from rushes.wire.models import ModelSpec
from rushes.wire.results import JobRecord, JobState
from rushes_service.engine.engine import Engine
from rushes_service.media.receipts import read_receipt
from rushes_service.media.writing import write_media

END_S = 600.0
POLL_S = 0.05
"""Times are those of the records: looking more often would only take a processor from the worker."""


@dataclass(frozen=True)
class Shape:
    """Of the samples; sizes in pixels."""

    width: int
    height: int
    frames: int
    steps: int


ONE_SAMPLE = """
import sys, torch
from pathlib import Path
from batches import Engine, SampleJob, write_frames
torch.set_num_threads(1)
job = SampleJob.decode(sys.stdin.read())
write_frames(Engine("cpu", Path(sys.argv[1])), job, Path(job.output_dir) / f"{job.id}.mp4")
"""
"""A process that makes one sample and ends."""

QUICK = Shape(32, 32, 5, 2)


class Silent:
    """A watcher that does nothing."""

    def stage(self, name: str, total: int = 0) -> None:
        """Not of interest."""

    def step(self, done: int, total: int) -> None:
        """Not of interest."""


class Jobs:
    """Samples of ever new checkpoints of one model, written below `directory`."""

    def __init__(self, model: Path, directory: Path, shape: Shape) -> None:
        self.model = model
        self.directory = directory
        self.shape = shape
        self._made = 0

    def checkpoint(self) -> Checkpoint:
        """A LoRA that was never seen before."""
        self._made += 1
        live = load_file(self.model / "transformer" / "diffusion_pytorch_model.safetensors")
        random = torch.Generator().manual_seed(self._made)
        tensors = {}
        for name, weight in live.items():
            if name.startswith("blocks.") and name.endswith("to_q.weight"):
                module = "transformer." + name.removesuffix(".weight")
                tensors[f"{module}.lora_A.weight"] = torch.randn(4, weight.shape[1], generator=random) * 0.05
                tensors[f"{module}.lora_B.weight"] = torch.randn(weight.shape[0], 4, generator=random) * 0.05
        path = self.directory / f"lora-{self._made}.safetensors"
        save_file(tensors, path)
        return Checkpoint(path=str(path), fingerprint=fingerprint(path))

    def new(self, checkpoint: Checkpoint | None = None, seed: int = 0) -> SampleJob:
        """A sample of a new checkpoint, or of the one given."""
        checkpoint = checkpoint or self.checkpoint()
        shape = self.shape
        prompt = Prompt(
            prompt="a red ball",
            width=shape.width,
            height=shape.height,
            frame_count=shape.frames,
            sample_steps=shape.steps,
            seed=seed,
        )
        return SampleJob(
            id=f"{self._made:08x}{seed:08x}",
            run="bench",
            submission=f"bench-{self._made}",
            model=ModelSpec(architecture="wan2.1-t2v", model=str(self.model)),
            checkpoint=checkpoint,
            prompt=prompt,
            prompt_index=seed,
            step=self._made,
            output_dir=str(self.directory),
            submitted_at=time.time(),
        )


@contextmanager
def worker(url: str, cache: Path, *flags: str) -> Iterator[None]:
    """A worker's process."""
    command = [sys.executable, "-m", "rushes", "worker", "--device", "cpu", "--threads", "1", *flags]
    environment = {**os.environ, "RUSHES_REDIS_URL": url, "RUSHES_CACHE_DIR": str(cache), "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            yield
        finally:
            process.terminate()
            process.wait()


def finished(client: Client, jobs: list[SampleJob]) -> list[JobRecord]:
    """The records of `jobs` once all have ended well."""
    deadline = time.monotonic() + END_S
    while True:
        records = [client.get(job.id) for job in jobs]
        if all(record.state.terminal for record in records):
            break
        if time.monotonic() > deadline:
            raise SystemExit(f"samples have not ended within {END_S:g} s")
        time.sleep(POLL_S)
    for record in records:
        if record.state is not JobState.DONE:
            raise SystemExit(f"a sample ended as {record.state.value}: {record.result and record.result.error}")
    return records


def seconds_of(record: JobRecord) -> dict[str, float]:
    """Seconds of each stage of a finished sample, by its receipt."""
    if record.result is None or record.result.receipt is None:
        raise SystemExit(f"sample {record.id} has no receipt")
    return dict(read_receipt(Path(record.result.receipt))["seconds"])


def denoising(engine: Engine, job: SampleJob) -> float:
    """Seconds that a warm engine denoises a sample for, with nothing beside it."""
    denoised = engine.denoise(job, Silent())
    return float(denoised.facts()["seconds"]["denoise"])


def diffusers_sample(pipe: WanPipeline, job: SampleJob, target: Path) -> None:
    """A sample as a script of diffusers makes it, LoRA included."""
    assert job.checkpoint is not None
    prompt: Any = job.prompt
    pipe.load_lora_weights(load_file(job.checkpoint.path))
    frames = pipe(
        prompt.prompt,
        negative_prompt="",
        width=prompt.width,
        height=prompt.height,
        num_frames=prompt.frame_count,
        num_inference_steps=prompt.sample_steps,
        generator=torch.Generator().manual_seed(0),
    ).frames[0]
    export_to_video(list(frames), str(target), fps=16)
    pipe.unload_lora_weights()


def process_per_job(job: SampleJob, cache: Path) -> float:
    """Seconds of a process that makes one sample and ends."""
    began = time.perf_counter()
    command = [sys.executable, "-c", ONE_SAMPLE, str(cache)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    subprocess.run(command, input=job.encode(), text=True, check=True, env=environment, cwd=Path(__file__).parent)
    return time.perf_counter() - began


def write_frames(engine: Engine, job: SampleJob, target: Path) -> None:
    """Make one sample with `engine`, one stage after the other."""
    denoised = engine.denoise(job, Silent())
    frames = denoised.parameters.frame_count
    write_media(
        denoised.frames(), target, job_id=job.id, frame_count=frames, fps=16, receipt=denoised.facts, guard=lambda: None
    )
