"""Guidance and small samples in one batch: what is made one by one but for rounding, each with all that is its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import WanTransformer3DModel
from torch import nn

from engine_support import Recorder, make_job, write_lora
from family_support import tiny_model_spec, tiny_options
from rushes.families.table import ARCHITECTURES
from rushes.wire.jobs import Prompt, SampleJob
from rushes_service.engine.engine import Engine
from rushes_service.models.base import Denoised, OnStep, Sample
from rushes_service.models.batching import LAYER_WEIGHTS, MOST_TOKENS, BatchedArchitecture, most_tokens
from rushes_service.runtime.device_memory import free_memory
from rushes_service.settings import Batching

CPU = torch.device("cpu")
TOLERANCE = 1e-5
"""Of the largest number, in float32 on the CPU; another prompt is a thousand times as far."""

GIB = 1 << 30
KINDS = ("wan2.1-t2v", "wan2.1-flf2v", "wan2.2-t2v-a14b", "wan2.2-ti2v-5b")
"""Text alone; image tokens of two pictures; two experts; a time for each token."""

MakeEngine = Callable[[Batching], Engine]


@pytest.fixture
def engine(tmp_path: Path) -> MakeEngine:
    """Engines that share a cache and keep their encoders."""
    return lambda batching: Engine("cpu", tmp_path / "cache", batching=batching, encoder_bytes=GIB)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The size of the batch of each call of a Wan transformer."""
    forward, found = WanTransformer3DModel.forward, []

    def counted(self: Any, *args: Any, **inputs: Any) -> Any:
        if inputs:  # a model that is being built calls it otherwise
            found.append(len(inputs["hidden_states"]))
        return forward(self, *args, **inputs)

    monkeypatch.setattr(WanTransformer3DModel, "forward", counted)
    return found


def distance(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).abs().max() / other.abs().max())


@pytest.mark.parametrize("family", KINDS)
def test_guidance_in_one_batch_is_guidance(engine, calls, tmp_path, family):
    spec = ARCHITECTURES[family]
    model = tiny_model_spec(family, tmp_path / "models").model_copy(update={"dtype": "float32"})
    if family == "wan2.2-t2v-a14b":
        model = model.model_copy(update={"experts": "both"})
    options = {**tiny_options(spec, tmp_path / "inputs", 5), "cfg_scale": 5.0, "negative_prompt": "grey"}
    job = make_job(tmp_path).model_copy(update={"model": model, "prompt": Prompt(prompt="a red ball", **options)})
    apart = engine("off").denoise(job, Recorder())
    assert set(calls) == {1}
    steps = len(calls)
    calls.clear()
    watch = Recorder()
    made = engine("on").denoise(job, watch)
    assert calls == [2] * (steps // 2)
    assert distance(made.latents, apart.latents) <= TOLERANCE
    assert watch.steps == [(1, 2), (2, 2)]
    assert (apart.facts().get("guidance"), made.facts()["guidance"]) == (None, "in one batch")


def submission(model: Path, lora: Path | None = None, count: int = 4, **options: Any) -> list[SampleJob]:
    return [
        make_job(model, lora, prompt=f"ball {index}", seed=index, **{"cfg_scale": 4.0, **options})
        for index in range(count)
    ]


def test_samples_of_one_checkpoint_are_denoised_together_and_are_those_made_alone(engine, calls, tiny_wan, tmp_path):
    jobs = submission(tiny_wan, write_lora(tmp_path / "lora.safetensors"))
    alone = [engine("off").denoise(job, Recorder()) for job in jobs]
    calls.clear()
    together = engine("on")
    made, watches = [], []
    for at, job in enumerate(jobs):
        watches.append(Recorder())
        made.append(together.denoise(job, watches[-1], lambda at=at: jobs[at + 1 :]))
    assert calls == [2 * len(jobs)] * 2, "two steps, each of all samples with guidance"
    for one, other, job in zip(made, alone, jobs, strict=True):
        assert distance(one.latents, other.latents) <= TOLERANCE
        assert one.parameters == other.parameters
        facts = one.facts()
        assert facts["batch"] == {"samples": len(jobs), "denoised_with": jobs[0].id}
        assert {**facts["lora"], "path": ""} == {**other.facts()["lora"], "path": ""}
        assert len(list(one.frames())) == len(list(other.frames())) == job.prompt.frame_count
    assert min(distance(made[0].latents, each.latents) for each in made[1:]) > 1000 * TOLERANCE
    assert all((2, 2) in watch.steps for watch in watches)


TEXTS = (("ball", 1), ("a ball on a green lawn", 2), ("a red ball in the evening sun", 2))
"""Prompts of several lengths in tokens, and seeds."""

EQUAL_TEXTS = (("blue", 1), ("cyan", 2), ("pink", 2))
"""For families that mask nothing: of the length of the negative prompt, too."""

BATCHED = {
    "flux1-kontext": (TEXTS, False),
    "flux2-klein": (TEXTS, True),
    "qwen-image": (TEXTS, True),
    "krea2": (TEXTS, True),
    "z-image": (TEXTS, False),
    "skyreels-v1-t2v": (EQUAL_TEXTS, True),
    "hunyuan-video-1.5-t2v": (EQUAL_TEXTS, True),
    "kandinsky5-t2v": (EQUAL_TEXTS, True),
}
"""Families of every way to sample, and whether guidance becomes one call: Z-Image's pipeline makes one call anyway."""


@pytest.mark.parametrize("family", BATCHED)
def test_small_samples_of_every_family_are_those_made_alone(engine, family, tmp_path):
    texts, guided = BATCHED[family]
    spec = ARCHITECTURES[family]
    model = tiny_model_spec(family, tmp_path).model_copy(update={"dtype": "float32"})
    options = {**tiny_options(spec, tmp_path / "inputs"), "control_image_path": (), "image_path": None}
    options |= {"cfg_scale": 3.0, "negative_prompt": "grey"}
    prompts = [Prompt(prompt=text, **{**options, "seed": seed}) for text, seed in texts]
    jobs = [
        make_job(tmp_path).model_copy(update={"model": model, "prompt": prompt, "id": f"{at:032}"})
        for at, prompt in enumerate(prompts)
    ]
    alone, together = engine("off"), engine("on")
    for at, job in enumerate(jobs):
        one = alone.denoise(job, Recorder())
        made = together.denoise(job, Recorder(), lambda at=at: jobs[at + 1 :])
        assert made.latents.shape == one.latents.shape
        assert distance(made.latents, one.latents) <= TOLERANCE
        assert made.facts()["batch"] == {"samples": len(jobs), "denoised_with": jobs[0].id}
        assert ("guidance" in made.facts()) == guided


def test_what_differs_is_not_denoised_together(engine, calls, tiny_wan, tmp_path):
    lora = write_lora(tmp_path / "lora.safetensors")
    (first, *_) = submission(tiny_wan, lora)
    differing = [
        *submission(tiny_wan, None, 1),
        *submission(tiny_wan, lora, 1, sample_steps=3),
        *submission(tiny_wan, lora, 1, width=48),
        *submission(tiny_wan, lora, 1, cfg_scale=3.0),
        *submission(tiny_wan, lora, 1, lora_multiplier=0.5),
        *submission(tiny_wan, lora, 1, discrete_flow_shift=0.0),
        first.model_copy(update={"id": "f" * 32, "noise": "cpu"}),
    ]
    assert "batch" not in engine("on").denoise(first, Recorder(), lambda: differing).facts()
    assert set(calls) == {2}


def test_latents_of_another_checkpoint_are_never_handed_out(engine, calls, tiny_wan, tmp_path):
    jobs = submission(tiny_wan, write_lora(tmp_path / "one.safetensors"), 2)
    others = submission(tiny_wan, write_lora(tmp_path / "two.safetensors", seed=5), 2)
    together = engine("on")
    together.denoise(jobs[0], Recorder(), lambda: jobs[1:])
    made = together.denoise(others[1], Recorder())
    assert distance(made.latents, engine("off").denoise(others[1], Recorder()).latents) <= TOLERANCE
    calls.clear()
    again = together.denoise(jobs[1], Recorder())
    assert calls, "it was forgotten with its checkpoint"
    assert "batch" not in again.facts()


def test_a_batch_that_runs_out_of_memory_is_split(engine, calls, tiny_wan, monkeypatch):
    together = BatchedArchitecture.denoise_together

    def runs_out(self: BatchedArchitecture, samples: Sequence[Sample], on_step: OnStep) -> list[Denoised]:
        if len(samples) > 1:
            free_memory(CPU)
            raise torch.OutOfMemoryError("eight are too many")
        return together(self, samples, on_step)

    monkeypatch.setattr(BatchedArchitecture, "denoise_together", runs_out)
    jobs, batching = submission(tiny_wan, count=2), engine("on")
    for at, job in enumerate(jobs):
        made = batching.denoise(job, Recorder(), lambda at=at: jobs[at + 1 :])
        assert made.facts()["out_of_memory"].keys() == {"denoise"}
        assert made.facts().keys().isdisjoint({"batch", "guidance"}), "one by one, and guidance in two calls"
        assert distance(made.latents, engine("off").denoise(job, Recorder()).latents) <= TOLERANCE
    assert set(calls) == {1}


def test_by_itself_only_a_gpu_makes_batches_and_the_smaller_the_larger_the_models_layers():
    gpu, layer = torch.device("cuda:0"), nn.Linear(LAYER_WEIGHTS // 1000, 1000, device="meta")
    wide = nn.Sequential(layer, nn.Linear(7 * layer.in_features, 1000, device="meta"))
    assert most_tokens("auto", gpu, layer) == most_tokens("on", CPU, layer) == MOST_TOKENS
    assert most_tokens("auto", gpu, wide) == MOST_TOKENS // 4
    assert most_tokens("auto", gpu, nn.Linear(2, 2)) == MOST_TOKENS, "attention grows with the square of the tokens"
    assert most_tokens("auto", CPU, layer) == most_tokens("off", gpu, layer) == 0
