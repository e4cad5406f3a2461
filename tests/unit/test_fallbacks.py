"""Memory that runs out in each stage: the stage is done again in less, and the receipt tells how."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import UMT5EncoderModel

from engine_support import Recorder, make_job, weights, write_lora
from family_support import build_tiny, tiny_model_spec
from queue_support import make_job as make_any_job
from rushes.errors import OutOfMemory
from rushes.wire.jobs import SampleJob, VaeOptions
from rushes_service.engine.engine import Engine
from rushes_service.engine.fallback_memory import FallbackMemory
from rushes_service.engine.fallbacks import decode_fallbacks
from rushes_service.engine.sample import DenoisedSample

AGAIN = "again, with other memory freed"
ON_CPU = "base model on the CPU meanwhile"
SIZE = {"width": 160, "height": 144}
"""Larger than the smallest tile."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny("wan2.1-t2v", tmp_path_factory.mktemp("model") / "wan")


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return Engine("cpu", tmp_path / "cache")


@contextmanager
def out_of_memory(kind: type[nn.Module], at: Collection[int]) -> Iterator[None]:
    """Inside, the calls of modules of `kind` with these numbers (from 0) fail as they do on a full GPU."""
    calls = iter(range(1_000_000))

    def fail(module: nn.Module, _inputs: Any) -> None:
        if isinstance(module, kind) and next(calls) in at:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    hook = register_module_forward_pre_hook(fail)
    try:
        yield
    finally:
        hook.remove()


def sampled(engine: Engine, job: SampleJob) -> tuple[np.ndarray, DenoisedSample]:
    """All frames [F, H, W, 3], and the denoised sample."""
    denoised = engine.denoise(job, Recorder())
    return np.stack(list(denoised.frames())), denoised


def fallback_used(denoised: DenoisedSample, stage: str) -> tuple[str, str] | None:
    """What the receipt says about a stage that ran out of memory: fallback and output."""
    used = denoised.facts().get("out_of_memory", {}).get(stage)
    return used and (used["rung"], used["output"])


def decoder(engine: Engine) -> type[nn.Module]:
    return type(engine.loaded.base.vae.decoder)


@pytest.mark.parametrize(("failing", "expected"), [({0}, AGAIN), ({1}, AGAIN), ({0, 1}, ON_CPU), ({2, 5}, ON_CPU)])
def test_a_decode_that_runs_out_of_memory_makes_the_same_frames(engine, model, failing, expected):
    size = {**SIZE, "frame_count": 9}
    wanted, _ = sampled(engine, make_job(model, **size))
    with out_of_memory(decoder(engine), failing):
        frames, denoised = sampled(engine, make_job(model, **size))
    assert np.array_equal(frames, wanted)
    assert fallback_used(denoised, "decode") == (expected, "exact")
    assert denoised.warnings == ()


def test_tiles_are_the_last_resort_and_said_to_be_approximate(engine, model):
    wanted, _ = sampled(engine, make_job(model, **SIZE))
    with out_of_memory(decoder(engine), {0, 1, 2}):
        frames, denoised = sampled(engine, make_job(model, **SIZE))
    assert frames.shape == wanted.shape
    assert fallback_used(denoised, "decode") == ("tiles of 128 pixels", "approximate")
    assert "approximate" in " ".join(denoised.facts()["warnings"])


def test_the_rung_is_remembered_for_the_shape_and_for_no_other(engine, model):
    sampled(engine, make_job(model, **SIZE))
    with out_of_memory(decoder(engine), {0}):
        sampled(engine, make_job(model, **SIZE))
    assert fallback_used(sampled(engine, make_job(model, seed=5, **SIZE))[1], "decode") is not None
    assert fallback_used(sampled(engine, make_job(model))[1], "decode") is None


def test_a_device_that_is_too_small_is_an_error_and_the_engine_goes_on(engine, model):
    wanted, _ = sampled(engine, make_job(model))
    with out_of_memory(decoder(engine), range(1000)), pytest.raises(OutOfMemory, match="decoding"):
        sampled(engine, make_job(model))
    assert np.array_equal(sampled(engine, make_job(model))[0], wanted)


def test_a_hunyuan_decode_is_chunked_first_and_keeps_its_pixels(engine, tmp_path):
    spec = tiny_model_spec("hunyuan-video", tmp_path)
    options = {"width": 48, "height": 32, "frame_count": 5, "sample_steps": 1, "seed": 3}
    wanted, _ = sampled(engine, make_any_job(model=spec, **options))
    with out_of_memory(decoder(engine), {0, 1}):
        frames, denoised = sampled(engine, make_any_job(model=spec, **options))
    assert np.array_equal(frames, wanted)
    assert fallback_used(denoised, "decode") == ("chunks of 32 columns", "exact but for rounding")


def test_denoising_begins_again_with_memory_freed(engine, model):
    wanted, _ = sampled(engine, make_job(model))
    with out_of_memory(type(engine.loaded.base.transformer), {1}):
        frames, denoised = sampled(engine, make_job(model))
    assert np.array_equal(frames, wanted)
    assert fallback_used(denoised, "denoise") == ("again, with other memory freed", "exact")


def test_an_offloaded_transformer_keeps_its_lora_and_its_base(engine, model, tmp_path):
    lora = write_lora(tmp_path / "a.safetensors", alpha=8.0)
    other = write_lora(tmp_path / "b.safetensors", alpha=8.0, seed=1)
    jobs = [make_job(model, lora), make_job(model, other), make_job(model, lora, lora_multiplier=0.0)]
    wanted = [sampled(engine, job)[0] for job in jobs]
    sampled(engine, jobs[0])
    with out_of_memory(type(engine.loaded.base.transformer), {0, 1}):
        frames, denoised = sampled(engine, jobs[0])
    assert fallback_used(denoised, "denoise") == ("transformer offloaded block by block", "exact")
    assert denoised.facts()["offloaded"]
    assert np.array_equal(frames, wanted[0])
    for job, expected in zip(jobs, wanted, strict=True):
        assert np.array_equal(sampled(engine, job)[0], expected)
    on_disk = weights(model)
    live = dict(engine.loaded.base.transformer.named_parameters())
    assert all(torch.equal(live[name], tensor) for name, tensor in on_disk.items() if name in live)


class FullDevice(TorchDispatchMode):
    """Every operation of the first `tries` of a stage fails as it does on a full GPU."""

    def __init__(self, heard: Recorder, stage: str, tries: int) -> None:
        super().__init__()
        self.heard, self.stage, self.tries = heard, stage, tries

    def __torch_dispatch__(self, operation: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self.heard.stages[-1:] == [self.stage] and self.heard.stages.count(self.stage) <= self.tries:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return operation(*args, **(kwargs or {}))


@pytest.mark.parametrize("stage", ["load", "lora"])
def test_a_model_or_lora_that_does_not_fit_is_offloaded(engine, model, tmp_path, stage):
    job = make_job(model, write_lora(tmp_path / "lora.safetensors", alpha=8.0))
    wanted, _ = sampled(Engine("cpu", tmp_path / "cache"), job)
    for tries, expected in ((1, "again, with other memory freed"), (2, "transformer offloaded block by block")):
        engine.unload()
        engine.shared.fallbacks = FallbackMemory(lambda: 0)
        heard = Recorder()
        with FullDevice(heard, stage, tries):
            denoised = engine.denoise(job, heard)
            frames = np.stack(list(denoised.frames()))
        assert fallback_used(denoised, stage) == (expected, "exact")
        assert denoised.facts()["offloaded"] == (tries == 2)
        assert np.array_equal(frames, wanted)
    assert np.array_equal(sampled(engine, job)[0], wanted)
    with FullDevice(heard := Recorder(), stage, 9), pytest.raises(OutOfMemory):
        engine.unload()
        engine.denoise(job, heard)
    assert np.array_equal(sampled(engine, job)[0], wanted)


@pytest.mark.parametrize(
    ("failing", "expected"),
    [
        ({0}, (ON_CPU, "exact")),
        ({0, 1}, ("encoders on the CPU", "exact but for rounding")),
    ],
)
def test_an_encoder_that_does_not_fit_makes_room_or_moves(engine, model, failing, expected):
    with out_of_memory(UMT5EncoderModel, failing):
        frames, denoised = sampled(engine, make_job(model))
    assert fallback_used(denoised, "encode") == expected
    assert np.array_equal(frames, sampled(engine, make_job(model))[0])


def test_a_sample_that_ran_out_of_memory_ends_the_overlap_for_its_shape(engine, model):
    assert sampled(engine, make_job(model))[1].overlaps
    with out_of_memory(type(engine.loaded.base.transformer), {0}):
        assert not sampled(engine, make_job(model))[1].overlaps
    assert not sampled(engine, make_job(model, seed=5))[1].overlaps
    assert sampled(engine, make_job(model, **SIZE))[1].overlaps


def test_a_decode_on_another_card_leaves_the_base_model_where_it_is():
    ways = decode_fallbacks(VaeOptions(), 480, 832, chunked=False, apart=True)[1:]
    assert [fallback.name for fallback in ways] == [AGAIN, "tiles of 256 pixels", "tiles of 128 pixels"]
    assert not any(fallback.transformer_on_cpu for fallback in ways)


@pytest.mark.parametrize(
    ("asked", "chunked", "expected"),
    [
        (VaeOptions(), False, [AGAIN, ON_CPU, "tiles of 256 pixels", "tiles of 128 pixels"]),
        (VaeOptions(chunk_size=16), True, [AGAIN, ON_CPU, "tiles of 256 pixels", "tiles of 128 pixels"]),
        (VaeOptions(tiling=True), False, [AGAIN, ON_CPU, "tiles of 128 pixels"]),
        (VaeOptions(spatial_tile_sample_min_size=64), False, [AGAIN, ON_CPU]),
    ],
)
def test_no_rung_asks_for_more_memory_than_the_one_before(asked, chunked, expected):
    assert [fallback.name for fallback in decode_fallbacks(asked, 480, 832, chunked=chunked)[1:]] == expected
