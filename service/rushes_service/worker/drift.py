"""Drift: how far a sample is from the base model's sample of the same prompt and seed.

In latents: the RMS of the difference, in units of the base latents' standard deviation. In pixels: the mean absolute
difference in 8-bit levels, over at most `KEPT_FRAMES` frames. A sample of the base model leaves both behind:

    <output_dir>/.rushes/drift/<key>.safetensors     latents float16, frames uint8 [T, h, w, 3]

`key` names what both samples share: base model, prompt, parameters, seed and other LoRAs. A sample without such a file
has no drift, and neither has a draft: what is approximate in it is not the LoRA's.
"""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from rushes._files import replacing
from rushes.checkpoints.store import store_of
from rushes.errors import RushesError
from rushes.families.parameters import SampleParameters
from rushes.wire.base import digest
from rushes.wire.jobs import SampleJob
from rushes.wire.results import Drift
from rushes_service.worker.workspace import Workspace

logger = logging.getLogger("rushes.worker")

BASE_DIR = ".rushes/drift"
"""Below the output directory."""

KEPT_FRAMES = 16
"""Frames of a clip that are compared, evenly spread."""

KEPT_WIDTH = 128
"""Pixels; wider frames are compared at every second, third, … pixel."""

DRIFTED = "drifted"
"""Health flag of a control that has left its limit."""

Arrays = dict[str, np.ndarray]


def base_key(job: SampleJob, parameters: SampleParameters) -> str:
    """Name of what a sample shares with its base partner: 32 hex digits."""
    shared = parameters.model_dump(mode="json", exclude={"lora_multiplier"})
    loras = [lora.identity for lora in job.loras]
    return digest([job.model.fingerprint, job.vae.model_dump(mode="json"), shared, loras], 32)


def is_base(job: SampleJob) -> bool:
    """True for a sample of the base model: without a checkpoint, or at strength 0."""
    return job.checkpoint is None or job.strength == 0


class DriftMeter:
    """Compares one sample with its base partner while its frames pass, or keeps what the partners will need.

    Args:
        latents: gives the final latents, float32, once the frames have passed; None for a sample without any.
    """

    def __init__(
        self,
        job: SampleJob,
        workspace: Workspace,
        parameters: SampleParameters,
        latents: Callable[[], np.ndarray | None],
    ) -> None:
        self._job = job
        self._workspace = workspace
        self._parameters = parameters
        self._latents = functools.cache(latents)  # asked for when the frames have passed: then the device is done
        self._frames: list[np.ndarray] = []
        self._name = f"{base_key(job, parameters)}.safetensors"

    def watch(self, frames: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        """Pass frames, uint8 [H, W, 3], on and keep some of them small."""
        stride = max(1, -(-self._parameters.frame_count // KEPT_FRAMES))
        for number, frame in enumerate(frames):
            if number % stride == 0:
                step = max(1, -(-frame.shape[1] // KEPT_WIDTH))
                self._frames.append(frame[::step, ::step].copy())
            yield frame

    def drift(self) -> Drift | None:
        """The sample's drift, once its frames have passed; None for the base model, drafts, and without a partner."""
        if is_base(self._job) or self._job.draft is not None:
            return None
        base = self._load()
        if base is None:
            return None
        return Drift(
            latents=latent_drift(self._latents(), base.get("latents")),
            pixels=pixel_drift(self._pixels(), base.get("frames")),
        )

    def flags(self, drift: Drift | None) -> tuple[str, ...]:
        """`drifted`, if the prompt is a control and the sample has left its limit."""
        limit = self._job.prompt.drift_limit
        measured = drift and drift.latents
        return (DRIFTED,) if limit is not None and measured is not None and measured > limit else ()

    def keep(self) -> None:
        """Leave the file that partners are compared with, if this is a sample of the base model.

        A directory or store that refuses it costs the drift of later samples, not this one: it is logged.
        """
        if not is_base(self._job) or self._job.draft is not None:
            return
        arrays: Arrays = {"frames": self._pixels()}
        if (latents := self._latents()) is not None:
            arrays["latents"] = latents.astype(np.float16)
        path = self._path()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as private:
                save_file(arrays, str(private))
                private.chmod(0o644)  # workers of other users compare with it, too
            if self._workspace.store is not None:
                store_of(self._workspace.store).put(path, self._url())
        except (OSError, RushesError, SafetensorError) as error:
            logger.warning("no drift can be measured against %s: %s", self._job.id, error)

    def _load(self) -> Arrays | None:
        """The partner's arrays; None if there is no partner, or its file cannot be read."""
        path = self._path()
        try:
            if self._workspace.store is not None and not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                store_of(self._workspace.store).get(self._url(), path)
            return load_file(str(path))
        except FileNotFoundError:
            return None
        except (OSError, RushesError, SafetensorError, ValueError) as error:
            logger.warning("the drift of %s cannot be measured: %s", self._job.id, error)
            return None

    def _path(self) -> Path:
        return Path(self._workspace.job.output_dir) / BASE_DIR / self._name

    def _url(self) -> str:
        return f"{self._workspace.store}/{BASE_DIR}/{self._name}"

    def _pixels(self) -> np.ndarray:
        return np.stack(self._frames) if self._frames else np.zeros((0, 0, 0, 3), np.uint8)


def latent_drift(latents: np.ndarray | None, base: np.ndarray | None) -> float | None:
    """RMS of the difference over the standard deviation of `base`; None where they cannot be compared."""
    if latents is None or base is None or latents.shape != base.shape:
        return None
    base = base.astype(np.float32)
    spread = float(base.std())
    with np.errstate(all="ignore"):
        rms = float(np.sqrt(np.mean(np.square(latents - base))))
    return round(rms / spread, 5) if spread > 0 and np.isfinite(rms) else None


def pixel_drift(frames: np.ndarray, base: np.ndarray | None) -> float | None:
    """Mean absolute difference in 8-bit levels; None where they cannot be compared."""
    if base is None or not frames.size or frames.shape != base.shape:
        return None
    with contextlib.suppress(ValueError):
        return round(float(np.abs(frames.astype(np.int16) - base.astype(np.int16)).mean()), 4)
    return None
