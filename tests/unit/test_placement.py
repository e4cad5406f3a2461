"""Where a model's parts lie and how they are stored, on the CPU; what only a GPU can show is marked so."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from engine_support import Recorder, make_job, write_lora
from family_support import build_tiny
from rushes.errors import SampleCancelled
from rushes.wire.jobs import SampleJob
from rushes_service.engine.engine import Engine
from rushes_service.engine.placement import ensure_stored
from rushes_service.models.loading.storing import Float8
from rushes_service.models.wan import tiny as wan
from rushes_service.runtime.available_memory import GIB


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny("wan2.1-t2v", tmp_path_factory.mktemp("model") / "wan")


def frames(engine: Engine, job: SampleJob) -> np.ndarray:
    """All frames of a job, [F, H, W, 3]."""
    return np.stack(list(engine.denoise(job, Recorder()).frames()))


def in_fp8(job: SampleJob, *, scaled: bool = False) -> SampleJob:
    flags = {"fp8_base": True, "fp8_scaled": scaled}
    return job.model_copy(update={"model": job.model.model_copy(update=flags)})


def test_an_offloaded_model_makes_the_same_pictures(model, tmp_path):
    lora = write_lora(tmp_path / "a.safetensors", alpha=8.0)
    plain, offloaded = Engine("cpu", tmp_path / "cache"), Engine("cpu", tmp_path / "cache", offload=True)
    for job in (make_job(model, lora), make_job(model), make_job(model, lora, lora_multiplier=0.5)):
        assert np.array_equal(frames(offloaded, job), frames(plain, job))
    assert not offloaded.denoise(make_job(model), Recorder()).overlaps


def test_weights_in_fp8_take_less_and_change_the_picture_a_little(model, tmp_path):
    engine = Engine("cpu", tmp_path / "cache")
    wanted = frames(engine, make_job(model)).astype(int)
    denoised = engine.denoise(in_fp8(make_job(model)), Recorder())
    difference = np.abs(np.stack(list(denoised.frames())).astype(int) - wanted).mean()
    assert 0 < difference < 10
    assert denoised.facts()["stored_as"] == "float8_e4m3fn"
    stored = {parameter.dtype for parameter in engine.loaded.base.transformer.parameters()}
    assert torch.float8_e4m3fn in stored


@pytest.mark.parametrize("scaled", [False, True])
def test_a_lora_acts_on_weights_in_fp8_and_can_be_taken_off_again(model, tmp_path, scaled):
    lora = write_lora(tmp_path / "a.safetensors", alpha=8.0)
    engine = Engine("cpu", tmp_path / "cache")
    base = frames(engine, in_fp8(make_job(model), scaled=scaled))
    denoised = engine.denoise(in_fp8(make_job(model, lora), scaled=scaled), Recorder())
    assert "float8" in denoised.facts()["lora"]["merge"]
    changed = np.stack(list(denoised.frames()))
    exact = frames(engine, make_job(model, lora)).astype(int)
    assert np.abs(changed.astype(int) - base).mean() > 1
    assert np.abs(changed.astype(int) - exact).mean() < np.abs(base.astype(int) - exact).mean()
    assert np.array_equal(frames(engine, in_fp8(make_job(model), scaled=scaled)), base)


def test_a_transformer_that_a_family_loads_by_itself_is_kept_in_float8_too():
    """Else the receipt would name a precision that the weights do not have."""
    plain = wan.transformer()
    base = SimpleNamespace(transformer=plain, storage=Float8(torch.float32))
    for _ in range(2):
        ensure_stored(base)
        assert plain.blocks[0].ffn.net[2].weight.dtype is torch.float8_e4m3fn


def test_scaled_fp8_is_for_the_linear_layers_of_blocks_alone(model, tmp_path):
    engine = Engine("cpu", tmp_path / "cache", offload=True)
    denoised = engine.denoise(in_fp8(make_job(model), scaled=True), Recorder())
    assert denoised.facts()["stored_as"] == "float8_e4m3fn with scales"
    offloaded = np.stack(list(denoised.frames()))
    parameters = engine.loaded.base.transformer.named_parameters()
    stored = {name for name, parameter in parameters if parameter.dtype == torch.float8_e4m3fn}
    assert "blocks.0.ffn.net.2.weight" in stored
    assert all(name.startswith("blocks.") and name.endswith("weight") and "norm" not in name for name in stored)
    assert np.array_equal(frames(Engine("cpu", tmp_path / "cache"), in_fp8(make_job(model), scaled=True)), offloaded)


def test_a_sample_waits_for_room_on_a_shared_device(model, tmp_path):
    free = iter([1 * GIB, 2 * GIB, 3 * GIB])
    engine = Engine("cpu", tmp_path / "cache", min_free_gib=2.5, measure=lambda _device: next(free))
    watch = Recorder()
    engine.denoise(make_job(model), watch)
    assert watch.stages[:3] == ["wait", "wait", "load"]


def test_a_sample_that_waits_for_room_can_be_cancelled(model, tmp_path):
    engine = Engine("cpu", tmp_path / "cache", min_free_gib=2.5, measure=lambda _device: 0)
    with pytest.raises(SampleCancelled):
        engine.denoise(make_job(model), Recorder(stop_at="wait", stop=SampleCancelled("cancelled")))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_an_offloaded_transformer_lies_in_host_memory_between_steps(model, tmp_path):
    engine = Engine("cuda:0", tmp_path / "cache", offload=True)
    assert frames(engine, make_job(model)).shape[0] == 5
    blocks = engine.loaded.base.transformer.blocks.parameters()
    assert {part.device.type for part in blocks} == {"cpu"}
