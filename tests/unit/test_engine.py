"""The engine on the tiny model: repeatable, exact about the base, usable after everything that can go wrong."""

from __future__ import annotations

import gc
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from engine_support import Recorder, lora_tensors, make_job, weights, write_lora
from family_support import build_tiny
from rushes.errors import (
    ArchitectureError,
    CheckpointFormat,
    CheckpointIncomplete,
    CheckpointMissing,
    ConfigError,
    LoraMismatch,
    LoraValue,
    ModelError,
    NonFiniteLatents,
    OutOfMemory,
    PromptError,
    SampleCancelled,
    WorkerUnfit,
)
from rushes.wire.jobs import Checkpoint, SampleJob, VaeOptions
from rushes.wire.models import ModelSpec
from rushes_service.engine.engine import Engine
from rushes_service.models.wan.tiny import build_tiny_wan
from rushes_service.runtime.device_errors import device_errors
from rushes_service.runtime.devices import resolve_device


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny("wan2.1-t2v", tmp_path_factory.mktemp("model") / "wan")


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    return Engine("cpu", tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def lora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_lora(tmp_path_factory.mktemp("lora") / "good.safetensors", alpha=8.0)


def frames(engine: Engine, job: SampleJob) -> np.ndarray:
    """All frames of a job, [F, H, W, 3]."""
    return np.stack(list(engine.denoise(job, Recorder()).frames()))


def live_weights(engine: Engine) -> dict[str, torch.Tensor]:
    return engine.loaded.base.transformer.state_dict()


def is_base(engine: Engine, model: Path) -> bool:
    on_disk = weights(model)
    return all(torch.equal(tensor, on_disk[name]) for name, tensor in live_weights(engine).items())


def changed(job: SampleJob, **model_fields: object) -> SampleJob:
    return job.model_copy(update={"model": job.model.model_copy(update=model_fields)})


def test_a_sample_has_the_size_and_frames_asked_for(engine, model):
    clip = frames(engine, make_job(model, width=48, height=32, frame_count=9))
    assert (clip.shape, clip.dtype) == ((9, 32, 48, 3), np.uint8)
    assert clip.std() > 20


def test_the_same_job_twice_makes_identical_frames(engine, model, lora):
    assert np.array_equal(frames(engine, make_job(model, lora)), frames(engine, make_job(model, lora)))


def test_a_warm_sample_does_not_stop_to_collect_garbage(engine, model):
    """A worker has a million objects: walking them took longer than all else around a short sample."""
    frames(engine, make_job(model))
    collections: list[str] = []
    gc.disable()  # what is left is asked for
    gc.callbacks.append(note := lambda phase, _info: collections.append(phase))
    try:
        frames(engine, make_job(model))
    finally:
        gc.callbacks.remove(note)
        gc.enable()
    assert not collections


def test_frames_are_the_same_with_and_without_the_conditioning_cache(engine, model, tmp_path):
    fresh = Engine("cpu", tmp_path / "cache")
    cold = frames(fresh, make_job(model, prompt="never seen before"))
    assert list((tmp_path / "cache").rglob("*.safetensors"))
    assert np.array_equal(cold, frames(fresh, make_job(model, prompt="never seen before")))
    assert np.array_equal(cold, frames(engine, make_job(model, prompt="never seen before")))


def test_a_full_cache_needs_no_text_encoder(model, tmp_path):
    directory = shutil.copytree(model, tmp_path / "wan")
    engine = Engine("cpu", tmp_path / "cache")
    wanted = frames(engine, make_job(directory))
    weights_file = directory / "text_encoder" / "model.safetensors"
    facts = weights_file.stat()
    weights_file.write_bytes(bytes(facts.st_size))  # unusable, but by its facts the same file
    os.utime(weights_file, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    restarted = Engine("cpu", tmp_path / "cache")
    assert np.array_equal(frames(restarted, make_job(directory)), wanted)
    with pytest.raises(ModelError, match="text_encoder"):
        restarted.denoise(make_job(directory, prompt="not in the cache"), Recorder())


def test_another_text_encoder_is_not_served_from_the_cache(model, tmp_path):
    engine = Engine("cpu", tmp_path / "cache")
    other = build_tiny_wan(tmp_path / "other", seed=1)
    frames(engine, make_job(model))
    cached = len(list((tmp_path / "cache").rglob("*.safetensors")))
    frames(engine, make_job(other))
    assert len(list((tmp_path / "cache").rglob("*.safetensors"))) == 2 * cached


def test_seed_prompt_and_lora_each_change_the_picture(engine, model, lora):
    base = frames(engine, make_job(model)).astype(int)
    variants = [make_job(model, seed=4), make_job(model, prompt="a blue cube"), make_job(model, lora)]
    for job in variants:
        assert np.abs(frames(engine, job) - base).mean() > 1


def test_strength_zero_and_no_checkpoint_are_the_base_model(engine, model, lora):
    base = frames(engine, make_job(model))
    frames(engine, make_job(model, lora))
    assert np.array_equal(frames(engine, make_job(model, lora, lora_multiplier=0.0)), base)
    assert is_base(engine, model)
    frames(engine, make_job(model, lora))
    assert np.array_equal(frames(engine, make_job(model)), base)
    assert is_base(engine, model)


def test_strength_scales_the_effect(engine, model, lora):
    base = engine.denoise(make_job(model), Recorder()).latents
    weak, strong = (
        (engine.denoise(make_job(model, lora, lora_multiplier=s), Recorder()).latents - base).abs().mean()
        for s in (0.1, 1.0)
    )
    assert 0 < weak < strong


def test_guidance_runs_for_any_scale_but_one(engine, model):
    def latents(scale: float, negative: str) -> torch.Tensor:
        return engine.denoise(make_job(model, cfg_scale=scale, negative_prompt=negative), Recorder()).latents

    assert torch.equal(latents(1.0, "x"), latents(1.0, "y"))
    for scale in (0.5, 5.0):
        assert not torch.equal(latents(scale, "x"), latents(scale, "y"))


def test_the_base_model_stays_warm(engine, model):
    job = make_job(model)
    engine.denoise(job, Recorder())
    assert engine.loaded_model == job.model.fingerprint
    watch = Recorder()
    list(engine.denoise(make_job(model), watch).frames())
    assert watch.stages == ["lora", "encode", "denoise", "decode"]
    assert watch.steps == [(1, 2), (2, 2), (1, 5), (5, 5)]


def test_unloading_gives_the_model_back_and_the_next_job_loads_it(model, tmp_path):
    engine = Engine("cpu", tmp_path)
    engine.denoise(make_job(model), Recorder())
    engine.unload()
    assert engine.loaded_model is None
    watch = Recorder()
    engine.denoise(make_job(model), watch)
    assert watch.stages[0] == "load"


@pytest.mark.parametrize("moment", ["load", "lora", "encode", "denoise", 1, "decode", 5])
def test_a_sample_that_is_stopped_leaves_the_engine_usable(model, lora, tmp_path, moment):
    engine = Engine("cpu", tmp_path)
    stop = SampleCancelled("somebody did")
    with pytest.raises(SampleCancelled) as caught:
        list(engine.denoise(make_job(model, lora), Recorder(stop_at=moment, stop=stop)).frames())
    assert caught.value is stop
    again = frames(engine, make_job(model))
    assert is_base(engine, model)
    assert np.array_equal(again, frames(Engine("cpu", tmp_path), make_job(model)))


def test_decoding_that_is_given_up_leaves_the_engine_usable(engine, model):
    wanted = frames(engine, make_job(model, frame_count=9))
    stream = engine.denoise(make_job(model, frame_count=9), Recorder()).frames()
    next(stream)
    stream.close()
    assert np.array_equal(frames(engine, make_job(model, frame_count=9)), wanted)


def write_bad_loras(directory: Path) -> dict[str, tuple[Path, type[Exception]]]:
    """One file of every bad kind, and the error it must give."""
    good = write_lora(directory / "good.safetensors").read_bytes()
    (directory / "cut.safetensors").write_bytes(good[: len(good) // 2])
    torch.save(lora_tensors(), directory / "pickle.safetensors")
    (directory / "text.safetensors").write_text("this is no checkpoint at all, only some words")
    foreign = {"lora_unet_double_blocks_0_img_mod_lin.lora_down.weight": torch.zeros(2, 8)}
    save_file(foreign, directory / "foreign.safetensors")
    save_file({"some.key": torch.zeros(2)}, directory / "unknown.safetensors")
    poisoned = lora_tensors()
    poisoned["lora_unet_blocks_0_ffn_0.lora_up.weight"][0, 0] = float("nan")
    save_file(poisoned, directory / "nan.safetensors")
    shaped = {**lora_tensors(), "lora_unet_blocks_0_ffn_0.lora_down.weight": torch.zeros(4, 5)}
    save_file(shaped, directory / "shape.safetensors")
    kinds = {
        "missing": CheckpointMissing,
        "cut": CheckpointIncomplete,
        "pickle": CheckpointFormat,
        "text": CheckpointFormat,
        "foreign": LoraMismatch,
        "unknown": LoraMismatch,
        "nan": LoraValue,
        "shape": LoraValue,
    }
    return {kind: (directory / f"{kind}.safetensors", error) for kind, error in kinds.items()}


def test_each_bad_checkpoint_is_its_own_error_and_the_next_job_is_right(engine, model, lora, tmp_path):
    wanted = frames(engine, make_job(model, lora))
    for path, error in write_bad_loras(tmp_path).values():
        job = make_job(model).model_copy(update={"checkpoint": Checkpoint(path=str(path), fingerprint="x")})
        with pytest.raises(error, match=path.name) as caught:
            engine.denoise(job, Recorder())
        assert type(caught.value) is error
        assert np.array_equal(frames(engine, make_job(model, lora)), wanted)


def test_a_bad_checkpoint_is_refused_before_the_model_is_loaded(model, tmp_path):
    engine = Engine("cpu", tmp_path)
    watch = Recorder()
    job = make_job(model).model_copy(update={"checkpoint": Checkpoint(path="/no/such/file", fingerprint="x")})
    with pytest.raises(CheckpointMissing):
        engine.denoise(job, watch)
    assert watch.stages == []


def test_a_lora_in_memory_is_merged_again_at_another_strength_without_being_read(engine, model, tmp_path):
    path = write_lora(tmp_path / "a.safetensors", alpha=8.0)
    half = make_job(model, path, lora_multiplier=0.5)
    wanted = frames(engine, half)
    engine.denoise(make_job(model, path), Recorder())
    (held,) = engine.loaded.loras._read.values()
    assert np.array_equal(frames(engine, half), wanted)
    assert next(iter(engine.loaded.loras._read.values())) is held


def test_a_diverged_checkpoint_is_told_from_a_broken_machine(engine, model, lora):
    with pytest.raises(NonFiniteLatents, match=r"step 1 of 2.*diverged"):
        engine.denoise(make_job(model, lora, lora_multiplier=1e30), Recorder())
    assert np.isfinite(frames(engine, make_job(model))).all()
    assert is_base(engine, model)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model": "/no/such/model"}, "no such directory"),
        ({"model": "nobody/no-such-model"}, "could not be fetched"),
        ({"dit": "a.safetensors"}, "--dit .*a.safetensors: there is no such file"),
    ],
)
def test_a_model_that_is_not_there_is_a_clear_error(engine, model, fields, message):
    with pytest.raises(ModelError, match=message):
        engine.denoise(changed(make_job(model), **fields), Recorder())
    frames(engine, make_job(model))


def test_a_model_without_its_transformer_vae_or_index_is_a_clear_error(engine, model, tmp_path):
    for part in ("transformer", "vae", "model_index.json"):
        directory = shutil.copytree(model, tmp_path / part)
        shutil.rmtree(directory / part) if part != "model_index.json" else (directory / part).unlink()
        with pytest.raises(ModelError, match=part):
            engine.denoise(make_job(directory), Recorder())


def test_damaged_model_weights_are_a_clear_error(engine, model, tmp_path):
    directory = shutil.copytree(model, tmp_path / "wan")
    (directory / "transformer" / "diffusion_pytorch_model.safetensors").write_bytes(b"broken")
    with pytest.raises(ModelError, match="transformer"):
        engine.denoise(make_job(directory), Recorder())


def test_a_model_of_another_family_is_a_clear_error(engine, model, tmp_path):
    directory = shutil.copytree(model, tmp_path / "wan")
    index = json.loads((directory / "model_index.json").read_text())
    (directory / "model_index.json").write_text(json.dumps({**index, "_class_name": "FluxPipeline"}))
    with pytest.raises(ModelError, match="holds a FluxPipeline, but this architecture needs WanPipeline"):
        engine.denoise(make_job(directory), Recorder())


def test_an_unknown_architecture_is_a_clear_error(engine, model):
    with pytest.raises(ArchitectureError, match=r"wan9\.9"):
        engine.denoise(changed(make_job(model), architecture="wan9.9"), Recorder())


def test_a_flow_shift_of_zero_is_refused(engine, model):
    with pytest.raises(PromptError, match="--fs 0"):
        engine.denoise(make_job(model, discrete_flow_shift=0.0), Recorder())


def test_options_that_change_nothing_or_approximate_are_warned_of(engine, model):
    vae = VaeOptions(chunk_size=16, spatial_tile_sample_min_size=32)
    job = make_job(model, width=64, height=64, guidance_scale=3.0).model_copy(update={"vae": vae})
    denoised = engine.denoise(job, Recorder())
    assert [frame.shape for frame in denoised.frames()] == [(64, 64, 3)] * 5
    text = " | ".join(denoised.warnings)
    assert "--g is ignored" in text
    assert "--vae_chunk_size changes nothing" in text
    assert "tiles of 32 pixels: approximate" in text


def test_the_facts_tell_all_that_was_done(engine, model, lora):
    denoised = engine.denoise(make_job(model, lora, lora_multiplier=0.5, width=40), Recorder())
    list(denoised.frames())
    facts = json.loads(json.dumps(denoised.facts()))
    assert facts["parameters"]["width"] == 32
    assert facts["parameters"]["seed"] == 3
    assert facts["lora"]["matched"] == 36
    assert facts["lora"]["unmatched"] == 0
    assert facts["lora"]["strength"] == 0.5
    assert facts["lora"]["sha256"] == facts["lora"]["fingerprint"]
    assert len(facts["sigmas"]) == 3
    assert (facts["dtype"], facts["device"]) == ("float32", "cpu")
    assert facts["versions"].keys() == {"python", "rushes", "torch", "diffusers", "transformers"}
    assert {"lora", "encode", "denoise", "decode"} <= facts["seconds"].keys()
    assert facts["peak_memory"]["bytes"] > 0
    assert engine.denoise(make_job(model), Recorder()).facts()["lora"] is None


def test_a_job_may_ask_for_another_precision(model, lora, tmp_path):
    engine = Engine("cpu", tmp_path)
    denoised = engine.denoise(changed(make_job(model, lora), dtype="bfloat16"), Recorder())
    assert denoised.facts()["dtype"] == "bfloat16"
    assert np.stack(list(denoised.frames())).std() > 20


def test_a_device_that_is_not_there_is_a_clear_error(tmp_path):
    for name in ("cuda:99", "toaster"):
        with pytest.raises(ConfigError, match=name):
            Engine(name, tmp_path)


@pytest.mark.parametrize(
    ("error", "wanted"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), OutOfMemory),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), OutOfMemory),
        (MemoryError(), OutOfMemory),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), WorkerUnfit),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), WorkerUnfit),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), RuntimeError),
        (SampleCancelled("somebody did"), SampleCancelled),
    ],
)
def test_device_errors_are_told_apart(error, wanted):
    with pytest.raises(wanted) as caught, device_errors(resolve_device("cpu"), "denoising"):
        raise error
    assert type(caught.value) is wanted


def test_a_model_without_a_name_is_the_familys_own_on_the_hub(engine):
    job = make_job(Path("unused"))
    job = job.model_copy(update={"model": ModelSpec(architecture="wan2.1-t2v")})
    with pytest.raises(ModelError, match=r"Wan-AI/Wan2.1-T2V-1.3B-Diffusers.*download the model first"):
        engine.denoise(job, Recorder())
