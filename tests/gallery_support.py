"""A run with pictures worth looking at, drawn and not sampled: what a style LoRA does to clips over its training."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from api_support import announce, ended
from rushes.checkpoints.safetensors import fingerprint
from rushes.client.client import Client
from rushes.wire import keys
from rushes.wire.base import digest
from rushes.wire.jobs import Checkpoint, Prompt, SampleJob
from rushes.wire.models import ModelSpec
from rushes.wire.results import Drift, JobError, JobState
from rushes_service.media.writing import write_media

MODEL = ModelSpec(architecture="wan2.1-t2v", model="/models/wan2.1-t2v-1.3b")

PROMPTS = (
    "paper-cut diorama, a hot air balloon drifts over blue hills at dawn",
    "paper-cut diorama, the sun sets behind a red desert, slow pan to the right",
    "paper-cut diorama, a full moon over a snowy valley, fog in the distance",
    "paper-cut diorama, a green island in a calm sea, a balloon in the sky",
)

FAILURE = "12 of 600 keys fit nothing in wan2.1-t2v: is it another family's LoRA?"

PALETTES = (
    ((0.98, 0.78, 0.62), (0.45, 0.62, 0.86), (0.16, 0.24, 0.47)),
    ((0.99, 0.72, 0.36), (0.80, 0.36, 0.25), (0.33, 0.12, 0.17)),
    ((0.17, 0.20, 0.38), (0.62, 0.71, 0.84), (0.86, 0.91, 0.97)),
    ((0.72, 0.89, 0.93), (0.25, 0.62, 0.66), (0.10, 0.34, 0.29)),
)


@dataclass(frozen=True)
class Scene:
    """One prompt: its colours (sky, far, near) and what moves."""

    index: int
    width: int
    height: int
    frames: int

    def frame(self, number: int, progress: float) -> np.ndarray:
        """uint8 [H, W, 3]: at progress 0 a soft, grainy landscape, at 1 crisp layers of coloured paper."""
        time = number / max(1, self.frames)
        y, x = np.mgrid[0 : self.height, 0 : self.width].astype(np.float32)
        x, y = x / self.height, y / self.height
        soft = self.paint(x, y, time, crisp=False)
        crisp = self.paint(x, y, time, crisp=True)
        noise = np.random.default_rng(self.index * 1000 + number).normal(0, 0.02, soft.shape)
        blended = soft * (1 - progress) + crisp * progress + noise * (1 - progress)
        return (blended.clip(0.02, 0.98) * 255).astype(np.uint8)

    def paint(self, x: np.ndarray, y: np.ndarray, time: float, *, crisp: bool) -> np.ndarray:
        """Sky, disc, hills and balloon from back to front."""
        sky, far, near = (np.array(colour, np.float32) for colour in PALETTES[self.index % len(PALETTES)])
        if not crisp:
            grey = np.float32(0.5)
            sky, far, near = (colour * 0.55 + grey * 0.35 for colour in (sky, far, near))
        picture = sky * (1 - 0.25 * y[..., None]) if not crisp else np.broadcast_to(sky, (*x.shape, 3)).copy()
        picture = self.disc(picture, x, y, time, crisp)
        for layer in range(4):
            depth = (layer + 1) / 4
            ridge = self.ridge(x, layer, time)
            edge = 400.0 if crisp else 22.0
            if crisp:
                shadow = np.clip(1 - np.abs(y - ridge + 0.018) * 34, 0, 1)[..., None] * 0.28
                picture = picture * (1 - shadow)
            inside = 1 / (1 + np.exp(-np.clip((y - ridge) * edge, -40, 40)))
            colour = far * (1 - depth) + near * depth
            picture = picture * (1 - inside[..., None]) + colour * inside[..., None]
        return self.balloon(picture, x, y, time, crisp) if self.index % 2 == 0 or self.index == 3 else picture

    def ridge(self, x: np.ndarray, layer: int, time: float) -> np.ndarray:
        """Height of one line of hills; nearer ones pass faster."""
        shift = self.index * 1.7 + layer * 2.3 + time * (0.12 + 0.14 * layer)
        waves = np.sin((x + shift) * (2.1 + layer)) * 0.06 + np.sin((x + shift) * (5.3 - layer)) * 0.025
        return np.float32(0.46 + 0.13 * layer) + waves

    def disc(self, picture: np.ndarray, x: np.ndarray, y: np.ndarray, time: float, crisp: bool) -> np.ndarray:
        """Sun or moon."""
        centre = (1.25, 0.26 + (0.22 * time if self.index == 1 else 0.0))
        distance = np.hypot(x - centre[0], y - centre[1])
        colour = np.array((1.0, 0.95, 0.84) if self.index != 1 else (1.0, 0.86, 0.45), np.float32)
        inside = np.clip((0.15 - distance) * (300 if crisp else 9) + (0 if crisp else 0.2), 0, 1)[..., None]
        return picture * (1 - inside) + colour * inside

    def balloon(self, picture: np.ndarray, x: np.ndarray, y: np.ndarray, time: float, crisp: bool) -> np.ndarray:
        """A balloon that drifts to the right and breathes up and down."""
        left = 0.34 + 0.55 * time
        top = 0.30 + 0.03 * np.sin(time * 2 * np.pi)
        body = np.hypot((x - left) / 0.11, (y - top) / 0.135)
        inside = np.clip((1 - body) * (60 if crisp else 4), 0, 1)[..., None]
        stripes = (np.floor((x - left + 1) * 22) % 2)[..., None]
        red, cream = np.array((0.86, 0.25, 0.22), np.float32), np.array((0.98, 0.92, 0.80), np.float32)
        colour = red * stripes + cream * (1 - stripes) if crisp else np.array((0.62, 0.47, 0.42), np.float32)
        picture = picture * (1 - inside) + colour * inside
        basket = (np.abs(x - left) < 0.022) & (np.abs(y - top - 0.18) < 0.018)
        return np.where(basket[..., None], np.float32(0.22), picture)


def small_lora(path: Path, step: int) -> Path:
    """A safetensors file with the metadata that trainers write, and two small matrices."""
    header = {
        "__metadata__": {"ss_network_dim": "16", "ss_learning_rate": "0.0002", "ss_steps": str(step)},
        "lora_unet_blocks_0_attn_q.lora_down.weight": {"dtype": "F32", "shape": [16, 8], "data_offsets": [0, 512]},
        "lora_unet_blocks_0_attn_q.lora_up.weight": {"dtype": "F32", "shape": [8, 16], "data_offsets": [512, 1024]},
    }
    text = json.dumps(header).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack("<Q", len(text)) + text + np.full(256, step, np.float32).tobytes())
    return path


def drift_of(job: SampleJob, progress: float) -> Drift | None:
    """The drift that a painted sample is said to have: a control's is small."""
    if job.checkpoint is None:
        return None
    share = 0.25 if job.prompt.drift_limit is not None else 1.0 - 0.12 * job.prompt_index
    return Drift(latents=round(0.9 * progress * share, 3), pixels=round(30 * progress * share, 2))


def jobs_of(
    run: str, root: Path, steps: Sequence[int], prompts: Sequence[str], size: tuple[int, int], frames: int
) -> Iterator[SampleJob]:
    """The samples of a run; step 0 is the base model."""
    for step in steps:
        checkpoint = None
        if step:
            path = small_lora(root / f"{run}-step{step:08d}.safetensors", step)
            checkpoint = Checkpoint(path=str(path), fingerprint=fingerprint(path))
        for index, text in enumerate(prompts):
            seed = 42 + index
            prompt = Prompt(prompt=text, width=size[0], height=size[1], frame_count=frames, seed=seed, sample_steps=20)
            yield SampleJob(
                id=digest([run, step, index], 32),
                run=run,
                submission=f"{run}-{step}",
                model=MODEL,
                checkpoint=checkpoint,
                prompt=prompt,
                prompt_index=index,
                step=step,
                output_dir=str(root),
                output_name=run,
                submitted_at=1767225600.0 + step,
            )


def leave_lane(queue: Client, job: SampleJob) -> None:
    """Take a job off its lane, as the end of a sample does."""
    lane = keys.lane(job.model.fingerprint, job.priority)
    entry = queue.redis.hget(keys.job(job.id), "entry")
    if entry:
        queue.redis.xdel(lane, entry)


def finish(
    queue: Client,
    job: SampleJob,
    scene: Scene,
    progress: float,
    *,
    spoiled: str = "",
    drift: Drift | None = None,
    noise: str | None = None,
) -> None:
    """Write the media file of a job with its receipt, and record it as done."""
    leave_lane(queue, job)
    if spoiled == "failed":
        error = JobError(code="lora_mismatch", message=FAILURE)
        ended(queue, job, JobState.FAILED, error=error)
        return
    suffix = ".png" if scene.frames == 1 else ".mp4"
    target = Path(job.output_dir) / "sample" / f"{job.run}_{job.step:06d}_{job.prompt_index:02d}{suffix}"
    target.parent.mkdir(parents=True, exist_ok=True)  # a run may have a slash in its name
    frames = (scene.frame(number, progress) for number in range(scene.frames))
    if spoiled == "black":
        frames = (np.zeros((scene.height, scene.width, 3), np.uint8) for _ in range(scene.frames))
    written = write_media(
        frames,
        target,
        job_id=job.id,
        frame_count=scene.frames,
        fps=12,
        receipt=lambda: receipt_of(job, scene),
        guard=lambda: None,
    )
    ended(
        queue,
        job,
        JobState.DONE,
        path=str(written.path),
        receipt=str(written.receipt_path),
        media_type=written.media_type,
        width=written.width,
        height=written.height,
        frame_count=scene.frames,
        fps=12.0,
        health=written.health,
        drift=drift,
        worker="gpu-box-cuda1",
        seconds=21.4,
        noise=noise,
    )


def tell_progress(queue: Client, job: SampleJob, step: int) -> None:
    """Record that a sample has begun and how far it is, and tell those who follow events."""
    stage = {"stage": "denoise", "step": step, "total": 20}
    queue.redis.hset(keys.job(job.id), mapping={"state": JobState.RUNNING.value, **stage})
    announce(queue, "started", job.id, job.run, worker="w")
    announce(queue, "progress", job.id, job.run, **stage)


def tell_done(queue: Client, job: SampleJob) -> None:
    """Tell those who follow events that a finished job is done, as its last transition does."""
    result = queue.get(job.id).result
    assert result is not None
    queue.redis.xadd(keys.EVENTS, {"type": "done", "id": job.id, "run": job.run, "data": result.encode()})


def receipt_of(job: SampleJob, scene: Scene) -> dict[str, object]:
    """What a worker would write about it."""
    lora = {"modules": 300, "ranks": [16], "matched": 600, "unmatched": 0, "strength": 1.0} if job.checkpoint else None
    return {
        "rushes": "receipt/1",
        "id": job.id,
        "run": job.run,
        "submission": job.submission,
        "step": job.step,
        "epoch": None,
        "prompt_index": job.prompt_index,
        "asked": job.prompt.model_dump(mode="json", exclude_none=True),
        "parameters": {
            "prompt": job.prompt.prompt,
            "width": scene.width,
            "height": scene.height,
            "frame_count": scene.frames,
            "fps": 12,
            "seed": job.prompt.seed,
            "sample_steps": 20,
            "cfg_scale": 5.0,
            "discrete_flow_shift": 3.0,
            "lora_multiplier": 1.0,
        },
        "checkpoint": job.checkpoint.model_dump(mode="json") if job.checkpoint else None,
        "lora": lora,
        "scheduler": "UniPC (flow)",
        "dtype": "bfloat16",
        "seconds": {"lora": 0.4, "encode": 0.0, "denoise": 18.1, "decode": 2.9},
        "peak_memory": {"bytes": 9_100_000_000, "of": "device"},
        "submitted_at": job.submitted_at,
        "worker": "gpu-box-cuda1",
    }


def paint_run(
    queue: Client,
    run: str,
    root: Path,
    steps: Sequence[int],
    *,
    prompts: Sequence[str] = PROMPTS,
    size: tuple[int, int] = (96, 64),
    frames: int = 5,
    stop: int | None = None,
) -> list[SampleJob]:
    """Submit a run and finish its samples up to the `stop`-th."""
    jobs = list(jobs_of(run, root, steps, prompts, size, frames))
    queue.submit(jobs)
    for job in jobs[:stop]:
        progress = (job.step / max(steps)) ** 0.8 if max(steps) else 0.0
        finish(queue, job, Scene(job.prompt_index, size[0], size[1], frames), progress)
    return jobs
