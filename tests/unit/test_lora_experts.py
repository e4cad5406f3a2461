"""LoRA files for the two transformers of Wan2.2: each goes into its own, and never into the other."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from engine_support import Recorder, lora_tensors, make_job, write_lora
from family_support import build_tiny
from rushes import ExpertPair
from rushes.checkpoints.weights import secure
from rushes.errors import ConfigError, LoraError, LoraMismatch
from rushes.submission.build import checkpoint_at, extra_loras
from rushes.wire.jobs import Checkpoint, SampleJob
from rushes.wire.models import ModelSpec
from rushes_service.engine.engine import Engine

FAMILY = "wan2.2-t2v-a14b"
SETTINGS = {"sample_steps": 4, "discrete_flow_shift": 3.0}
State = dict[str, torch.Tensor]


def one_block(**options: Any) -> State:
    """A LoRA for the one block that the tiny experts have."""
    return lora_tensors(blocks=1, **options)


def written(path: Path, **options: Any) -> Path:
    return write_lora(path, blocks=1, **options)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny(FAMILY, tmp_path_factory.mktemp("models") / FAMILY)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    return Engine("cpu", tmp_path_factory.mktemp("cache"))


def job(tiny: Path, checkpoint: Checkpoint | Path | None, experts: str = "both", **options: Any) -> SampleJob:
    spec = ModelSpec(architecture=FAMILY, model=str(tiny), experts=experts, **options.pop("model", {}))
    if isinstance(checkpoint, Path):
        checkpoint = checkpoint_at(checkpoint)
    made = make_job(tiny, None, **SETTINGS)
    return made.model_copy(update={"model": spec, "checkpoint": checkpoint, **options})


def changes(engine: Engine, asked: SampleJob) -> dict[str, float]:
    """Norm of what was added to each expert's weights."""
    engine.denoise(asked.model_copy(update={"checkpoint": None, "loras": ()}), Recorder())
    base = {name: tensor.clone() for name, tensor in weights(engine).items()}
    engine.denoise(asked, Recorder())
    found: dict[str, float] = {}
    for name, tensor in weights(engine).items():
        expert = name.partition(".")[0]
        found[expert] = found.get(expert, 0.0) + float((tensor - base[name]).square().sum())
    return found


def weights(engine: Engine) -> State:
    assert engine.loaded is not None
    transformer: nn.Module = engine.loaded.base.transformer
    return transformer.state_dict()


NAMES = {
    "zorp_000000250_high_noise.safetensors": "high",
    "zorp_000000250_low_noise.safetensors": "low",
    "zorp-HighNoise-000004.safetensors": "high",
    "wan2.2_low_noise_lora.safetensors": "low",
}


@pytest.mark.parametrize("name", NAMES)
def test_a_file_goes_into_the_expert_of_its_name_alone(engine: Engine, tiny: Path, tmp_path: Path, name: str) -> None:
    found = changes(engine, job(tiny, written(tmp_path / name)))
    other = {"high": "low", "low": "high"}[NAMES[name]]
    assert found[NAMES[name]] > 0
    assert found[other] == 0
    denoised = engine.denoise(job(tiny, tmp_path / name), Recorder())
    assert denoised.facts()["lora"]["expert"] == NAMES[name]


@pytest.mark.parametrize(("experts", "name"), [("low", "a_high_noise"), ("high", "a_low_noise")])
def test_a_file_for_the_expert_that_does_not_sample_is_refused(
    engine: Engine, tiny: Path, tmp_path: Path, experts: str, name: str
) -> None:
    asked = job(tiny, written(tmp_path / f"{name}.safetensors"), experts)
    with pytest.raises(LoraMismatch, match="--rushes_experts both samples with both"):
        engine.denoise(asked.model_copy(update={"allow_partial_lora": True}), Recorder())


@pytest.mark.parametrize(("experts", "name"), [("low", "a_low_noise"), ("high", "a_high_noise"), ("low", "a")])
def test_a_file_for_the_expert_that_samples_alone_is_merged(
    engine: Engine, tiny: Path, tmp_path: Path, experts: str, name: str
) -> None:
    found = changes(engine, job(tiny, written(tmp_path / f"{name}.safetensors"), experts))
    assert list(found) == [experts]
    assert found[experts] > 0


PREFIXES = {
    "ai-toolkit": ("diffusion_model.transformer_1.", "diffusion_model.transformer_2."),
    "plain": ("transformer_1.", "transformer_2."),
    "diffusers": ("transformer.", "transformer_2."),
    "DiffSynth": ("pipe.dit.", "pipe.dit2."),
    "Wan": ("high_noise_model.", "low_noise_model."),
    "kohya": ("lora_unet_transformer_1_", "lora_unet_transformer_2_"),
}


def both_in_one(path: Path, prefixes: tuple[str, str], *, flat: bool = False) -> Path:
    """A file for both experts: a strong LoRA for the first, a weak one for the second."""
    tensors: State = {}
    for prefix, factor in zip(prefixes, (1.0, 0.1), strict=True):
        own = one_block(style="musubi" if flat else "comfyui", alpha=4.0)
        for key, tensor in own.items():
            name = key.removeprefix("lora_unet_").removeprefix("diffusion_model.")
            tensors[prefix + name] = tensor * factor if "lora_up" in key or "lora_B" in key else tensor.clone()
    save_file(tensors, path)
    return path


@pytest.mark.parametrize("style", PREFIXES)
def test_both_in_one_file_go_each_into_its_own(engine: Engine, tiny: Path, tmp_path: Path, style: str) -> None:
    path = both_in_one(tmp_path / "a.safetensors", PREFIXES[style], flat=style == "kohya")
    found = changes(engine, job(tiny, path))
    assert found["low"] == pytest.approx(found["high"] / 100, rel=1e-3)


def test_half_of_a_file_for_both_is_used_with_a_word(engine: Engine, tiny: Path, tmp_path: Path) -> None:
    path = both_in_one(tmp_path / "a.safetensors", PREFIXES["plain"])
    found = changes(engine, job(tiny, path, "low"))
    assert found["low"] > 0
    warnings = engine.denoise(job(tiny, path, "low"), Recorder()).warnings
    assert any("keys are for the high-noise expert, which these samples are made without" in text for text in warnings)


def test_a_model_with_one_transformer_refuses_a_file_for_two(tmp_path: Path) -> None:
    from rushes_service.lora.merge import LoraMerger
    from rushes_service.lora.reading import read_lora
    from rushes_service.models.wan.names import wan_names
    from rushes_service.models.wan.tiny import transformer

    model = transformer()
    path = both_in_one(tmp_path / "a.safetensors", PREFIXES["plain"])
    with pytest.raises(LoraMismatch, match=r"transformer_1\..*has one transformer alone"):
        read_lora(path, wan_names(model), LoraMerger(model).shapes, family="wan2.1-t2v")


def kept(weights: Any, directory: Path) -> Checkpoint:
    """A hand-over as a training loop makes it."""
    opened = secure(weights, directory)
    with contextlib.closing(opened):
        return opened.keep(directory)


def test_both_files_of_a_step_are_one_checkpoint(engine: Engine, tiny: Path, tmp_path: Path) -> None:
    high = written(tmp_path / "a_high_noise.safetensors", seed=1, alpha=8.0)
    low = tmp_path / "a_low_noise.safetensors"
    save_file(one_block(style="comfyui", seed=2, alpha=None), low, metadata={"lora_alpha": "2", "rank": "4"})
    pair = job(tiny, kept(ExpertPair(high=high, low=low), tmp_path / "kept"))
    together = engine.denoise(pair, Recorder())
    assert pair.checkpoint is not None
    assert pair.checkpoint.expert is None
    apart = engine.denoise(job(tiny, low, loras=extra_loras([high])), Recorder())
    torch.testing.assert_close(together.latents, apart.latents, atol=1e-5, rtol=0)
    only = engine.denoise(job(tiny, low), Recorder())
    assert not torch.allclose(together.latents, only.latents, atol=1e-4)
    assert len(load_file(pair.checkpoint.path)) == len(load_file(high)) + len(load_file(low))


def test_further_files_go_each_into_the_expert_that_is_named_for_it(engine: Engine, tiny: Path, tmp_path: Path) -> None:
    strong, weak = written(tmp_path / "a.safetensors", alpha=8.0), written(tmp_path / "b.safetensors", alpha=0.8)
    found = changes(engine, job(tiny, None, loras=extra_loras([strong, weak], (), ("high", "low"))))
    assert found["low"] == pytest.approx(found["high"] / 100, rel=1e-3)
    turned = changes(engine, job(tiny, None, loras=extra_loras([strong, weak], (), ("low", "high"))))
    assert turned["high"] == pytest.approx(turned["low"] / 100, rel=1e-3)


def test_a_pair_the_wrong_way_round_is_refused(tmp_path: Path) -> None:
    high, low = (written(tmp_path / f"a_{name}_noise.safetensors") for name in ("high", "low"))
    with pytest.raises(ConfigError, match="is given as high, but its name says low"):
        secure(ExpertPair(high=low, low=high), tmp_path / "kept")


def test_a_broken_half_of_a_pair_is_named(tmp_path: Path) -> None:
    high, low = (written(tmp_path / f"a_{name}_noise.safetensors") for name in ("high", "low"))
    low.write_bytes(low.read_bytes()[:-8])
    from rushes.errors import CheckpointIncomplete

    with pytest.raises(CheckpointIncomplete, match="a_low_noise"):
        kept(ExpertPair(high=high, low=low), tmp_path / "kept")
    assert list((tmp_path / "kept").iterdir()) == []


def test_a_message_names_what_the_trainer_wrote(engine: Engine, tiny: Path, tmp_path: Path) -> None:
    save_file({"blocks.0.unheard.lora_A.weight": torch.ones(2, 2)}, tmp_path / "mine.safetensors")
    checkpoint = kept(tmp_path / "mine.safetensors", tmp_path / "kept")
    with pytest.raises(LoraError, match=r"/mine\.safetensors: 1 of 1 keys"):
        engine.denoise(job(tiny, checkpoint), Recorder())
