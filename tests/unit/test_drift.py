"""Drift from the base model's sample: measured in latents and pixels, kept small on disk, flagged for controls."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from rushes.families.parameters import resolve
from rushes.families.table import architecture
from rushes.trackers.base import numbers_of
from rushes.wire.ids import job_id
from rushes.wire.jobs import Checkpoint, Prompt, SampleJob
from rushes.wire.models import ModelSpec
from rushes.wire.results import Drift, JobState, SampleResult
from rushes_service.storage.path_map import PathMap
from rushes_service.worker.drift import BASE_DIR, DriftMeter, base_key, latent_drift, pixel_drift
from rushes_service.worker.workspace import Workspace

MODEL = ModelSpec(architecture="wan2.1-t2v", model="/models/wan")
CHECKPOINT = Checkpoint(path="/out/lora.safetensors", fingerprint="a" * 64)


def job(root: Path, checkpoint: Checkpoint | None = None, **prompt: object) -> SampleJob:
    fields = {"prompt": "a cat", "width": 64, "height": 32, "frame_count": 5, "seed": 1, **prompt}
    return SampleJob(
        id="0" * 32,
        run="cat",
        submission="s",
        model=MODEL,
        checkpoint=checkpoint,
        prompt=Prompt.model_validate(fields),
        output_dir=str(root),
    )


def frames(level: int, count: int = 5) -> Iterator[np.ndarray]:
    for _ in range(count):
        yield np.full((32, 64, 3), level, np.uint8)


def meter(sample: SampleJob, latents: np.ndarray | None, level: int) -> DriftMeter:
    parameters, _ = resolve(sample.prompt, architecture(MODEL.architecture))
    found = DriftMeter(sample, Workspace(sample, PathMap()), parameters, lambda: latents)
    assert sum(1 for _ in found.watch(frames(level))) == 5, "all frames pass"
    return found


def latents(seed: int = 0, scale: float = 1.0) -> np.ndarray:
    return scale * np.random.default_rng(seed).standard_normal((1, 16, 2, 4, 8)).astype(np.float32)


def test_drift_is_measured_in_standard_deviations_of_the_base_and_in_levels(tmp_path: Path) -> None:
    base = latents(scale=2.0)
    meter(job(tmp_path), base, 100).keep()

    drift = meter(job(tmp_path, CHECKPOINT), base + 1.0, 110).drift()

    assert drift is not None
    assert drift.latents == pytest.approx(1.0 / base.std(), rel=1e-3)
    assert drift.pixels == 10


def test_the_same_sample_does_not_drift(tmp_path: Path) -> None:
    meter(job(tmp_path), latents(), 100).keep()

    drift = meter(job(tmp_path, CHECKPOINT), latents(), 100).drift()

    assert drift is not None and drift.pixels == 0
    assert drift.latents is not None and drift.latents < 1e-3, "what is kept has half precision"


def test_a_draft_is_compared_with_nothing_and_nothing_with_it(tmp_path: Path) -> None:
    def draft(sample: SampleJob) -> SampleJob:
        return sample.model_copy(update={"draft": 0.08})

    meter(draft(job(tmp_path)), latents(), 100).keep()
    assert meter(job(tmp_path, CHECKPOINT), latents(1), 110).drift() is None, "no exact sample of the base model"
    meter(job(tmp_path), latents(), 100).keep()
    assert meter(draft(job(tmp_path, CHECKPOINT)), latents(1), 110).drift() is None
    assert meter(job(tmp_path, CHECKPOINT), latents(1), 110).drift() is not None


def test_what_is_kept_of_a_base_sample_is_small(tmp_path: Path) -> None:
    sample = job(tmp_path)
    parameters, _ = resolve(
        Prompt(prompt="a", width=832, height=480, frame_count=81, seed=1), architecture("wan2.1-t2v")
    )
    found = DriftMeter(sample, Workspace(sample, PathMap()), parameters, lambda: None)
    for _ in found.watch(np.zeros((480, 832, 3), np.uint8) for _ in range(81)):
        pass
    found.keep()

    (file,) = (tmp_path / BASE_DIR).iterdir()
    assert file.stat().st_size < 500_000


@pytest.mark.parametrize(
    "change", [{"seed": 2}, {"prompt": "a dog"}, {"sample_steps": 5}, {"cfg_scale": 2.0}, {"frame_count": 9}]
)
def test_a_sample_that_differs_in_more_than_its_weights_has_no_partner(
    tmp_path: Path, change: dict[str, object]
) -> None:
    meter(job(tmp_path), latents(), 100).keep()

    other = job(tmp_path, CHECKPOINT, **change)
    parameters, _ = resolve(other.prompt, architecture(MODEL.architecture))

    assert DriftMeter(other, Workspace(other, PathMap()), parameters, latents).drift() is None


def test_strength_zero_is_the_base_model_and_strength_changes_no_partner(tmp_path: Path) -> None:
    meter(job(tmp_path, CHECKPOINT, lora_multiplier=0.0), latents(), 100).keep()

    assert meter(job(tmp_path, CHECKPOINT, lora_multiplier=0.5), latents(1), 100).drift() is not None
    assert meter(job(tmp_path, CHECKPOINT, lora_multiplier=0.0), latents(1), 100).drift() is None


def test_a_control_beyond_its_limit_is_flagged_and_another_prompt_is_not(tmp_path: Path) -> None:
    meter(job(tmp_path), latents(), 100).keep()
    far = latents() + 1.0

    for limit, flags in ((0.5, ("drifted",)), (2.0, ()), (None, ())):
        found = meter(job(tmp_path, CHECKPOINT, drift_limit=limit), far, 100)
        assert found.flags(found.drift()) == flags
    assert found.flags(None) == ()


def test_a_limit_makes_no_other_sample(tmp_path: Path) -> None:
    with_limit, without = job(tmp_path, drift_limit=0.4), job(tmp_path)
    ids = [
        job_id(run="cat", model=MODEL, checkpoint_fingerprint="base", prompt=one.prompt, prompt_index=0, step=0)
        for one in (with_limit, without)
    ]
    parameters = [resolve(one.prompt, architecture(MODEL.architecture))[0] for one in (with_limit, without)]

    assert ids[0] == ids[1]
    assert base_key(with_limit, parameters[0]) == base_key(without, parameters[1])


def test_a_damaged_file_costs_the_drift_and_not_the_sample(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    meter(job(tmp_path), latents(), 100).keep()
    (file,) = (tmp_path / BASE_DIR).iterdir()
    file.write_bytes(b"broken")

    assert meter(job(tmp_path, CHECKPOINT), latents(), 100).drift() is None
    assert "cannot be measured" in caplog.text


def test_a_directory_that_cannot_be_written_costs_the_drift_and_not_the_sample(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / ".rushes").write_text("a file where the directory should be")

    meter(job(tmp_path), latents(), 100).keep()

    assert "no drift can be measured" in caplog.text


def test_arrays_that_cannot_be_compared_have_no_drift() -> None:
    assert latent_drift(None, latents()) is None
    assert latent_drift(latents(), latents()[:, :8]) is None
    assert latent_drift(latents(), np.zeros_like(latents())) is None, "a base without any spread"
    assert pixel_drift(np.zeros((1, 2, 2, 3), np.uint8), np.zeros((2, 2, 2, 3), np.uint8)) is None


def test_trackers_get_the_numbers(tmp_path: Path) -> None:
    sample = job(tmp_path, CHECKPOINT, drift_limit=0.4)
    result = SampleResult.of(
        sample, JobState.DONE, drift=Drift(latents=0.5, pixels=3.0), health=("drifted",), scores={"clip": 0.31}
    )

    assert numbers_of(result) == {"drift_0": 0.5, "drift_pixels_0": 3.0, "drifted_0": 1.0, "clip_0": 0.31}
    assert SampleResult.decode(result.encode()) == result
