"""Base models in turn: each is loaded once, comes back to the same bits, and is given back when memory is short."""

from __future__ import annotations

import gc
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from engine_support import Recorder, make_job, weights, write_lora
from family_support import tiny_model_spec, tiny_options
from rushes.errors import SampleCancelled
from rushes.families.table import ARCHITECTURES
from rushes.wire.jobs import Prompt, SampleJob
from rushes.wire.models import ModelSpec
from rushes_service.engine.engine import Engine
from rushes_service.engine.fallback_memory import FallbackMemory
from rushes_service.engine.fallbacks import DENOISE
from rushes_service.engine.kept.models import KeptModels
from rushes_service.engine.stages import loading
from rushes_service.runtime.host_memory import HostMemory
from support import wait_until

GIB = 1 << 30
PLENTY = HostMemory(100 * GIB, 90 * GIB)
SHORT = HostMemory(100 * GIB, 5 * GIB)

Loads = list[str]


@pytest.fixture(scope="module", autouse=True)
def libraries_are_not_collected() -> Iterator[None]:
    """The engine collects garbage at every change of models: what libraries hold would take most of the time."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> Loads:
    """The families of the models that were read from their files."""
    load_model, found = loading.load_model, []

    def noted(spec: ModelSpec, *args: Any, **options: Any) -> Any:
        found.append(spec.architecture)
        return load_model(spec, *args, **options)

    monkeypatch.setattr(loading, "load_model", noted)
    return found


@pytest.fixture
def make_engine(tmp_path: Path) -> Callable[..., Engine]:
    def make(budget: int | None = GIB, measure: Callable[[], HostMemory] = lambda: PLENTY, **options: Any) -> Engine:
        engine = Engine("cpu", tmp_path / "cache", encoder_bytes=0, **options)
        engine.shared.kept = KeptModels(budget, measure)
        return engine

    return make


@pytest.fixture
def other(tmp_path: Path) -> SampleJob:
    """A sample of another family."""
    spec = ARCHITECTURES["z-image"]
    prompt = Prompt(prompt="a red ball", **tiny_options(spec, tmp_path / "inputs"))
    job = make_job(tmp_path)
    return job.model_copy(update={"model": tiny_model_spec("z-image", tmp_path), "prompt": prompt})


def pixels(engine: Engine, job: SampleJob) -> torch.Tensor:
    return torch.cat(list(engine.denoise(job, Recorder()).pixels()), dim=1)


@pytest.mark.parametrize(
    ("change", "options"),
    [({}, {}), ({"fp8_scaled": True}, {}), ({}, {"offload": True})],
    ids=["as it is", "float8 with scales", "offloaded"],
)
def test_two_models_in_turn_are_loaded_once_each_and_make_what_they_made(
    make_engine, loads, tiny_wan, other, tmp_path, change, options
):
    def job(number: int | None) -> SampleJob:
        lora = None if number is None else write_lora(tmp_path / f"{number}.safetensors", seed=number)
        made = make_job(tiny_wan, lora)
        return made.model_copy(update={"model": made.model.model_copy(update=change)})

    jobs = [job(1), other, job(None), job(2)]
    fresh = make_engine(0, **options)
    wanted = []
    for each in jobs:
        fresh.unload()
        wanted.append(pixels(fresh, each))
    loads.clear()
    engine = make_engine(**options)
    for turn in (0, 1, 2, 1, 3, 0, 1, 2):
        assert torch.equal(pixels(engine, jobs[turn]), wanted[turn]), turn
    assert sorted(loads) == ["wan2.1-t2v", "z-image"]
    live = dict(engine.loaded.base.transformer.named_parameters())
    on_disk = weights(tiny_wan)
    assert change or all(torch.equal(live[name], tensor) for name, tensor in on_disk.items() if name in live)


def test_the_log_and_the_receipt_say_where_a_model_was(make_engine, loads, tiny_wan, other, caplog):
    engine = make_engine()
    caplog.set_level(logging.INFO, "rushes.worker")
    for job in (make_job(tiny_wan), other, make_job(tiny_wan)):
        denoised = engine.denoise(job, heard := Recorder())
        assert heard.stages[0] == "load"
        assert denoised.facts()["seconds"]["load"] > 0
    text = caplog.text
    assert f"wan2.1-t2v ({tiny_wan.name}) is kept in host memory (0.0 GiB)" in text
    assert f"wan2.1-t2v ({tiny_wan.name}) is back from host memory" in text
    assert engine.loaded_model == make_job(tiny_wan).model.fingerprint


def test_without_a_budget_each_turn_loads_its_model(make_engine, loads, tiny_wan, other):
    engine = make_engine(0)
    for job in (make_job(tiny_wan), other, make_job(tiny_wan)):
        engine.denoise(job, Recorder())
    assert len(loads) == 3
    assert engine.shared.kept.host_bytes == 0


def test_the_model_used_longest_ago_makes_room(make_engine, loads, tiny_wan, tmp_path):
    jobs = [make_job(Path(shutil.copytree(tiny_wan, tmp_path / f"model-{number}"))) for number in range(3)]
    engine = make_engine()
    engine.denoise(jobs[0], Recorder())
    size = engine.loaded.bytes
    engine.shared.kept = KeptModels(size, lambda: PLENTY)
    for turn, loaded in ((1, 2), (2, 3), (1, 3), (2, 3), (0, 4), (2, 4)):
        engine.denoise(jobs[turn], Recorder())
        assert len(loads) == loaded
        assert engine.shared.kept.host_bytes == size


def test_by_default_a_quarter_of_the_hosts_memory_stays_available(make_engine, loads, tiny_wan, other):
    memory = [PLENTY]
    engine = make_engine(None, lambda: memory[-1])
    turns = [make_job(tiny_wan), other]
    for job in turns:
        engine.denoise(job, Recorder())
    assert engine.shared.kept.host_bytes
    memory.append(HostMemory(100 * GIB, 20 * GIB))
    engine.denoise(turns[0], Recorder())
    assert engine.shared.kept.host_bytes == 0
    assert len(loads) == 2
    engine.denoise(turns[1], Recorder())
    assert len(loads) == 3


@pytest.mark.parametrize("way", ["when idle", "while another is loaded", "on unloading"])
def test_models_are_given_back_when_memory_is_short(make_engine, tiny_wan, other, tmp_path, monkeypatch, way):
    memory = [PLENTY]
    engine = make_engine(GIB, lambda: memory[-1])
    for job in (make_job(tiny_wan), other):
        engine.denoise(job, Recorder())
    kept = engine.shared.kept
    engine.relieve()
    assert kept.host_bytes
    if way == "on unloading":
        engine.unload()
    elif way == "when idle":
        memory.append(SHORT)
        engine.relieve()
    else:
        load_model = loading.load_model

        def slow(*args: Any, **options: Any) -> Any:
            memory.append(SHORT)
            wait_until(lambda: kept.host_bytes == 0, 30, "the kept models to be given back")
            return load_model(*args, **options)

        monkeypatch.setattr(loading, "load_model", slow)
        engine.denoise(make_job(Path(shutil.copytree(tiny_wan, tmp_path / "third"))), Recorder())
    assert kept.host_bytes == 0
    monkeypatch.undo()
    pixels(engine, make_job(tiny_wan))


def test_a_kept_model_whose_files_have_changed_is_loaded_anew(make_engine, loads, tiny_wan, other, tmp_path):
    model = Path(shutil.copytree(tiny_wan, tmp_path / "model"))
    engine = make_engine()
    before = pixels(engine, make_job(model))
    engine.denoise(other, Recorder())
    place = model / "transformer" / "diffusion_pytorch_model.safetensors"
    facts, content = place.stat(), place.read_bytes()
    changed = bytearray(content)
    changed[-2_000:] = bytes(2_000)
    (tmp_path / "new").write_bytes(changed)
    (tmp_path / "new").replace(place)
    os.utime(place, ns=(facts.st_atime_ns, facts.st_mtime_ns))  # as `cp -p` and `rsync -t` do
    assert not torch.equal(pixels(engine, make_job(model)), before)
    assert loads.count("wan2.1-t2v") == 2


def test_a_sample_that_is_stopped_before_its_model_comes_leaves_the_other(make_engine, loads, tiny_wan, other):
    engine = make_engine()
    wanted = pixels(engine, make_job(tiny_wan))
    with pytest.raises(SampleCancelled):
        engine.denoise(other, Recorder(stop_at="load", stop=SampleCancelled("enough")))
    assert torch.equal(pixels(engine, make_job(tiny_wan)), wanted)
    assert loads == ["wan2.1-t2v"]


def test_a_sample_of_a_model_that_has_left_can_still_be_decoded(make_engine, loads, tiny_wan, other):
    engine = make_engine()
    wanted = pixels(engine, make_job(tiny_wan))
    denoised = engine.denoise(make_job(tiny_wan), Recorder())
    engine.denoise(other, Recorder())
    assert torch.equal(torch.cat(list(denoised.pixels()), dim=1), wanted)


def test_a_model_that_is_being_decoded_is_let_go_and_not_moved(make_engine, loads, tiny_wan, other):
    engine = make_engine()
    wanted = pixels(engine, make_job(tiny_wan))
    clips = engine.denoise(make_job(tiny_wan), Recorder()).pixels()
    begun = [next(clips)]
    engine.denoise(other, Recorder())
    assert engine.shared.kept.host_bytes == 0
    assert torch.equal(torch.cat([*begun, *clips], dim=1), wanted)


def test_a_kept_model_that_was_offloaded_is_loaded_whole_when_memory_is_back(make_engine, loads, tiny_wan, other):
    engine = make_engine()
    available = [0]
    engine.shared.fallbacks = FallbackMemory(lambda: available[-1])
    engine.denoise(make_job(tiny_wan), Recorder())
    wanted = pixels(engine, make_job(tiny_wan))
    loaded = engine.loaded
    attempt = engine.shared.fallbacks.attempt("denoise", (loaded.fingerprint, 32, 32), DENOISE)
    attempt.at, attempt.ran_out = 2, True
    attempt.succeeded()
    loaded.offload(attempt)
    del loaded
    engine.denoise(other, Recorder())
    assert torch.equal(pixels(engine, make_job(tiny_wan)), wanted)
    assert engine.loaded.offloaded
    engine.denoise(other, Recorder())
    available.append(10 * GIB)
    assert torch.equal(pixels(engine, make_job(tiny_wan)), wanted)
    assert not engine.loaded.offloaded
    assert loads.count("wan2.1-t2v") == 2
