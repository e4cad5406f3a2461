"""LoRAs through the engine: extra ones, partial ones, PEFT directories, bad files one after the other; and receipts."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from bad_loras import BAD
from engine_support import Recorder, lora_tensors, make_job, write_lora
from lora_support import FORMATS, linears, write_peft
from rushes._paths import SNAPSHOT_DIR
from rushes.checkpoints.adapters import checkpoint_fingerprint
from rushes.checkpoints.safetensors import fingerprint
from rushes.checkpoints.weights import secure
from rushes.errors import (
    CheckpointError,
    CheckpointMissing,
    LoraMismatch,
)
from rushes.submission.build import checkpoint_at, extra_loras
from rushes.wire.jobs import Checkpoint, ExtraLora, SampleJob
from rushes_service.engine.engine import Engine
from rushes_service.models.wan.names import wan_names
from rushes_service.models.wan.tiny import transformer


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    return Engine("cpu", tmp_path_factory.mktemp("cache"))


def latents(engine: Engine, job: SampleJob) -> torch.Tensor:
    return engine.denoise(job, Recorder()).latents


def with_loras(job: SampleJob, *loras: ExtraLora) -> SampleJob:
    return job.model_copy(update={"loras": loras})


def test_extra_loras_act_beside_the_checkpoint_and_beside_the_base(
    engine: Engine, tiny_wan: Path, tmp_path: Path
) -> None:
    first, second = (write_lora(tmp_path / f"{seed}.safetensors", seed=seed, alpha=8.0) for seed in (1, 2))
    (extra,) = extra_loras([second], [0.5])
    base = latents(engine, make_job(tiny_wan))
    alone = latents(engine, with_loras(make_job(tiny_wan), extra))
    assert torch.equal(alone, latents(engine, make_job(tiny_wan, second, lora_multiplier=0.5)))
    together = latents(engine, with_loras(make_job(tiny_wan, first), extra))
    assert not torch.equal(together, alone)
    # --m scales the checkpoint only.
    assert torch.equal(latents(engine, with_loras(make_job(tiny_wan, first, lora_multiplier=0.0), extra)), alone)
    assert torch.equal(latents(engine, make_job(tiny_wan)), base)


def test_the_receipt_names_every_file_with_its_strength(engine: Engine, tiny_wan: Path, tmp_path: Path) -> None:
    first, second = (write_lora(tmp_path / f"{seed}.safetensors", seed=seed) for seed in (1, 2))
    job = with_loras(make_job(tiny_wan, first, lora_multiplier=0.7), *extra_loras([second], [-0.5]))
    facts = engine.denoise(job, Recorder()).facts()
    (extra,) = facts["loras"]
    assert (facts["lora"]["strength"], extra["strength"]) == (0.7, -0.5)
    assert (facts["lora"]["sha256"], extra["sha256"]) == (fingerprint(first), fingerprint(second))
    assert facts["lora"]["merge"] == "merged from a pristine copy (cpu)"
    assert facts["lora"]["merge_precision"] == "float32"
    assert (extra["format"], extra["kinds"], extra["matched"], extra["unmatched"]) == ("musubi", ["LoRA"], 36, 0)


def test_a_peft_directory_is_a_checkpoint_even_after_it_was_deleted(
    engine: Engine, tiny_wan: Path, tmp_path: Path
) -> None:
    model = transformer()
    adapter = FORMATS["diffusers"](linears(model, wan_names(model), original=False), torch.Generator().manual_seed(0))
    directory = write_peft(adapter, tmp_path / "adapter", lora_alpha=12)
    in_place = checkpoint_at(directory)
    wanted = latents(engine, make_job(tiny_wan).model_copy(update={"checkpoint": in_place}))
    held = secure(directory, tmp_path / SNAPSHOT_DIR)
    for file in directory.iterdir():
        file.unlink()
    directory.rmdir()
    try:
        kept = held.keep(tmp_path / SNAPSHOT_DIR)
    finally:
        os.close(held.descriptor)
    assert kept.snapshot
    assert kept.fingerprint == in_place.fingerprint == fingerprint(kept.path)
    engine.unload()
    assert torch.equal(latents(engine, make_job(tiny_wan).model_copy(update={"checkpoint": kept})), wanted)
    plain = latents(engine, make_job(tiny_wan))
    assert not torch.equal(wanted, plain)


def test_a_peft_directory_that_changed_since_is_refused(engine: Engine, tiny_wan: Path, tmp_path: Path) -> None:
    model = transformer()
    adapter = FORMATS["diffusers"](linears(model, wan_names(model), original=False), torch.Generator().manual_seed(0))
    directory = write_peft(adapter, tmp_path / "adapter", lora_alpha=12)
    checkpoint = checkpoint_at(directory)
    config = directory / "adapter_config.json"
    config.write_text(config.read_text().replace("12", "13"))
    assert checkpoint_fingerprint(directory) != checkpoint.fingerprint
    with pytest.raises(CheckpointMissing, match="overwritten"):
        latents(engine, make_job(tiny_wan).model_copy(update={"checkpoint": checkpoint}))


def with_stranger(path: Path, key: str) -> Path:
    save_file({**lora_tensors(alpha=8.0), f"{key}.lora_up.weight": torch.zeros(4, 4)}, path)
    return path


def test_a_partial_lora_is_an_error_and_by_wish_a_warning(engine: Engine, tiny_wan: Path, tmp_path: Path) -> None:
    path = with_stranger(tmp_path / "a.safetensors", "lora_unet_blocks_9_ffn_0")
    job = make_job(tiny_wan, path)
    with pytest.raises(LoraMismatch, match=r"1 of 37 keys match.*--allow_partial_lora samples without them"):
        latents(engine, job)
    denoised = engine.denoise(job.model_copy(update={"allow_partial_lora": True}), Recorder())
    assert denoised.warnings[-1].startswith("partly used: ")
    assert "lora_unet_blocks_9_ffn_0" in denoised.warnings[-1]
    assert (denoised.facts()["lora"]["matched"], denoised.facts()["lora"]["unmatched"]) == (36, 1)
    same = latents(engine, make_job(tiny_wan, write_lora(tmp_path / "b.safetensors", alpha=8.0)))
    assert torch.equal(denoised.latents, same)
    with pytest.raises(LoraMismatch):
        latents(engine, job)


def test_a_file_that_fits_nowhere_is_an_error_even_then(engine: Engine, tiny_wan: Path, tmp_path: Path) -> None:
    save_file({"lora_unet_double_blocks_0_img_mod_lin.alpha": torch.tensor(1.0)}, tmp_path / "a.safetensors")
    job = make_job(tiny_wan, tmp_path / "a.safetensors").model_copy(update={"allow_partial_lora": True})
    with pytest.raises(LoraMismatch, match="looks like flux1: 1 of 1 keys"):
        latents(engine, job)


def test_a_text_encoders_keys_are_told_from_foreign_ones(engine: Engine, tiny_wan: Path, tmp_path: Path) -> None:
    path = with_stranger(tmp_path / "a.safetensors", "lora_te1_text_model_encoder_layers_0_mlp_fc1")
    with pytest.raises(LoraMismatch, match="1 of them train a text encoder, which is not merged"):
        latents(engine, make_job(tiny_wan, path))


@pytest.mark.parametrize("kind", BAD)
def test_each_bad_file_has_its_own_message_and_the_next_good_one_is_right(
    engine: Engine, tiny_wan: Path, tmp_path: Path, kind: str
) -> None:
    make, error, message = BAD[kind]
    good = make_job(tiny_wan, write_lora(tmp_path / "good.safetensors", alpha=8.0))
    wanted = latents(engine, good)
    path = tmp_path / "bad.safetensors"
    make(path)
    with pytest.raises(error, match=message) as caught:
        latents(engine, make_job(tiny_wan, path))
    assert str(path) in str(caught.value)
    assert torch.equal(latents(engine, good), wanted)


def test_an_extra_lora_that_is_gone_is_named(engine: Engine, tiny_wan: Path) -> None:
    gone = ExtraLora(path="/gone/style.safetensors", fingerprint="0" * 64)
    with pytest.raises(CheckpointError, match=r"/gone/style.safetensors"):
        latents(engine, with_loras(make_job(tiny_wan), gone))


def test_a_directory_without_an_adapter_is_no_checkpoint(engine: Engine, tiny_wan: Path, tmp_path: Path) -> None:
    checkpoint = Checkpoint(path=str(tmp_path), fingerprint="x")
    with pytest.raises(CheckpointMissing, match="no checkpoint at"):
        latents(engine, make_job(tiny_wan).model_copy(update={"checkpoint": checkpoint}))
