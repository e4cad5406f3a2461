"""The thin integrations: what they write, and that they find the LoRA wherever it is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from accelerate import Accelerator
from peft import LoraConfig, get_peft_model
from safetensors import safe_open
from torch import nn

from client_support import AWAY, MakeSampler, handed_over, logged, spooled, training
from rushes import Cadence
from rushes.errors import CheckpointError
from rushes.integrations.accelerate import sampling
from rushes.integrations.adapter_files import save_adapter
from rushes.integrations.transformers import SamplingCallback
from rushes.trackers import TensorBoardTracker


def with_lora() -> nn.Module:
    """A wrapper around a model with a LoRA of PEFT, as trainers have them."""
    inner = nn.ModuleDict({"to_q": nn.Linear(4, 4)})
    return nn.ModuleDict({"model": get_peft_model(inner, LoraConfig(r=2, lora_alpha=6, target_modules=["to_q"]))})


@pytest.fixture
def make_sampler(tmp_path: Path) -> Iterator[MakeSampler]:
    with training(tmp_path, AWAY) as make:
        yield make


def test_an_adapter_is_written_as_diffusers_writes_it_with_its_alpha(tmp_path: Path) -> None:
    save_adapter(with_lora(), str(tmp_path / "lora.safetensors"))
    with safe_open(tmp_path / "lora.safetensors", "pt") as file:
        assert set(file.keys()) == {"transformer.to_q.lora_A.weight", "transformer.to_q.lora_B.weight"}
        assert json.loads(file.metadata()["lora_adapter_metadata"])["transformer.lora_alpha"] == 6
    with pytest.raises(CheckpointError, match="Linear has no LoRA"):
        save_adapter(nn.Linear(2, 2), str(tmp_path / "none.safetensors"))


def test_with_accelerate_the_main_process_submits_what_is_due(make_sampler: MakeSampler, tmp_path: Path) -> None:
    main = SimpleNamespace(is_main_process=True, trackers=[], unwrap_model=lambda model, **_: model)
    with sampling(main, with_lora(), make_sampler) as samples:
        for step in range(21):
            samples.step(step)
    assert len(spooled(tmp_path)) == 2
    other = SimpleNamespace(is_main_process=False)
    with sampling(other, with_lora(), make_sampler) as samples:
        samples.step(10)
    assert len(spooled(tmp_path)) == 2


def test_a_second_model_with_a_lora_is_told_of_once_unless_weights_are_given(
    make_sampler: MakeSampler, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    accelerator, trained = Accelerator(cpu=True), with_lora()
    accelerator.prepare_model(trained)
    warning = "samples have the LoRA of ModuleDict alone, and PeftModel carries one"
    with sampling(accelerator, trained, make_sampler) as samples:
        samples.step(10)
        assert warning not in logged(caplog)
        accelerator.prepare_model(get_peft_model(nn.Sequential(nn.Linear(4, 4)), LoraConfig(r=2, target_modules=["0"])))
    with sampling(accelerator, trained, make_sampler) as samples:
        for step in (20, 30):
            samples.step(step)
    assert logged(caplog).count(warning) == 1


def test_a_log_directory_that_another_training_has_stops_nothing(
    make_sampler: MakeSampler, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = TensorBoardTracker(tmp_path / "logs" / "samples")
    tracker = SimpleNamespace(name="tensorboard", logging_dir=tmp_path / "logs")
    main = SimpleNamespace(is_main_process=True, trackers=[tracker], unwrap_model=lambda model, **_: model)
    with sampling(main, with_lora(), make_sampler) as samples:
        samples.step(10)
        samples.step(11)
    other.close()
    assert len(spooled(tmp_path)) == 1
    assert logged(caplog).count("no samples are shown in tensorboard") == 1


def test_the_callback_of_transformers_submits_a_step_once(make_sampler: MakeSampler, tmp_path: Path) -> None:
    callback, model = SamplingCallback(make_sampler), with_lora()
    state = SimpleNamespace(is_world_process_zero=True, global_step=0, epoch=0.0)
    callback.on_train_begin(None, state, None, model=model)
    for step in (9, 10):
        state.global_step, state.epoch = step, step / 10
        callback.on_step_end(None, state, None, model=model)
    callback.on_epoch_end(None, state, None, model=model)
    callback.on_train_end(None, state, None)
    assert len(spooled(tmp_path)) == 1


def test_the_callback_of_transformers_names_whole_epochs_only(make_sampler: MakeSampler, tmp_path: Path) -> None:
    callback = SamplingCallback(lambda: make_sampler(cadence=Cadence(every_n_epochs=1)))
    state, model = SimpleNamespace(is_world_process_zero=True, global_step=0, epoch=0.0), with_lora()
    callback.on_train_begin(None, state, None, model=model)
    for step, epoch in ((5, 1.0), (10, 2.0), (12, 2.4)):  # training ends within the third
        state.global_step, state.epoch = step, epoch
        callback.on_epoch_end(None, state, None, model=model)
    callback.on_train_end(None, state, None)
    assert handed_over(tmp_path) == [(5, 1), (10, 2)]
