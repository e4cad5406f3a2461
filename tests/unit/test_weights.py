"""What a trainer hands over as weights: a path, a callable, a state dict; and what cannot be weights."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig
from safetensors.numpy import save_file
from safetensors.torch import load_file

from rushes import LoraState
from rushes.checkpoints.safetensors import METADATA, fingerprint, read_header
from rushes.checkpoints.staging import put_lora
from rushes.checkpoints.store import store_of
from rushes.checkpoints.weights import OpenWeights, secure
from rushes.errors import CheckpointError, CheckpointFormat, CheckpointMissing, ConfigError
from rushes.submission.build import checkpoint_at, extra_loras


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    return tmp_path / "kept"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "lora.safetensors"
    save_file({"a": np.ones(2, np.float32)}, path)
    return path


def keep(held: OpenWeights, directory: Path) -> Path:
    """The file that is kept; it has the name of its content and is alone in its directory."""
    try:
        checkpoint = held.keep(directory)
    finally:
        if held.descriptor is not None:
            os.close(held.descriptor)
    path = Path(checkpoint.path)
    assert checkpoint.snapshot
    assert list(directory.iterdir()) == [path]
    assert path.name == f"{checkpoint.fingerprint}.safetensors"
    return path


def test_a_path_is_kept_though_it_is_deleted_at_once(file: Path, kept: Path) -> None:
    content = file.read_bytes()
    held = secure(file, kept)
    file.unlink()
    assert keep(held, kept).read_bytes() == content


def test_holding_a_path_writes_nothing(file: Path, kept: Path) -> None:
    held = secure(str(file), kept)
    assert not kept.exists()
    keep(held, kept)


def test_a_relative_path_stays_the_same_file_when_the_directory_changes(
    file: Path, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(file.parent)
    held = secure(file.name, kept)
    monkeypatch.chdir("/")
    assert keep(held, kept).samefile(file)


def test_a_callable_writes_where_it_is_told(kept: Path) -> None:
    held = secure(lambda path: save_file({"a": np.ones(2, np.float32)}, path), kept)
    assert load_file(keep(held, kept))["a"].tolist() == [1.0, 1.0]


def test_a_callable_may_write_an_adapters_directory(kept: Path) -> None:
    def save_pretrained(path: str) -> None:
        Path(path).mkdir()
        (Path(path) / "adapter_config.json").write_text('{"r": 4}')
        save_file({"a": np.ones(2, np.float32)}, Path(path) / "adapter_model.safetensors")

    file = keep(secure(save_pretrained, kept), kept)
    assert load_file(file)["a"].tolist() == [1.0, 1.0]
    assert read_header(file)["__metadata__"]["adapter_config"] == '{"r": 4}'


def test_a_callable_that_writes_another_directory_is_refused_and_leaves_nothing(kept: Path) -> None:
    with pytest.raises(CheckpointFormat, match="wrote no checkpoint: is not a file, and no adapter"):
        secure(lambda path: Path(path).mkdir(), kept)
    assert list(kept.iterdir()) == []


def test_a_state_dict_is_written(kept: Path) -> None:
    weight = torch.arange(6.0, requires_grad=True).reshape(2, 3).T
    assert torch.equal(load_file(keep(secure({"a": weight}, kept), kept))["a"], weight.detach())


def test_a_state_dict_may_change_afterwards(kept: Path) -> None:
    weight = torch.zeros(2)
    held = secure({"a": weight}, kept)
    weight.fill_(9)
    assert load_file(keep(held, kept))["a"].tolist() == [0.0, 0.0]


def test_a_path_without_a_file_is_missing(tmp_path: Path, kept: Path) -> None:
    with pytest.raises(CheckpointMissing, match="absent"):
        secure(tmp_path / "absent.safetensors", kept)


def test_a_directory_is_no_checkpoint(tmp_path: Path, kept: Path) -> None:
    with pytest.raises(CheckpointFormat, match="not a file"):
        keep(secure(tmp_path, kept), kept)


def test_a_pipe_is_no_checkpoint_and_does_not_block(tmp_path: Path, kept: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CheckpointFormat, match="not a file"):
        keep(secure(tmp_path / "pipe", kept), kept)


def test_a_callable_that_writes_nothing_is_told_so(kept: Path) -> None:
    with pytest.raises(CheckpointFormat, match="wrote no file to the path it was given"):
        secure(lambda _: None, kept)


def test_what_a_failing_callable_has_written_is_removed(kept: Path) -> None:
    def fail(path: str) -> None:
        Path(path).write_bytes(b"half")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        secure(fail, kept)
    assert list(kept.iterdir()) == []


@pytest.mark.parametrize("weights", [3, [1, 2], object()])
def test_other_things_are_refused_before_anything_is_made(weights: Any, kept: Path) -> None:
    with pytest.raises(ConfigError, match="must be a path, a callable or a state dict, not"):
        secure(weights, kept)
    assert not kept.exists()


def peft_adapter(directory: Path, name: str = "adapter_model.safetensors", alpha: int = 16) -> Path:
    """An adapter as PEFT writes it; the path of its tensors."""
    directory.mkdir(exist_ok=True)
    save_file({"base_model.model.a.lora_A.weight": np.ones((2, 2), np.float32)}, directory / name)
    (directory / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": alpha}))
    return directory / name


def told(file: Path) -> dict[str, str]:
    """What the header of a kept file says."""
    return read_header(file)[METADATA]


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "style.safetensors"])
@pytest.mark.parametrize("whole", [False, True])
def test_the_configuration_beside_a_file_is_kept_with_it(tmp_path: Path, kept: Path, name: str, whole: bool) -> None:
    path = peft_adapter(tmp_path / "adapter", name)
    if whole and name != "adapter_model.safetensors":
        pytest.skip("a directory with a file of that name is no adapter")
    held = secure(path.parent if whole else path, kept)
    shutil.rmtree(path.parent)
    assert json.loads(told(keep(held, kept))["adapter_config"])["lora_alpha"] == 16


def test_a_configuration_among_several_files_belongs_to_pefts_alone(tmp_path: Path, kept: Path) -> None:
    peft_adapter(tmp_path / "adapter")
    other = tmp_path / "adapter" / "other.safetensors"
    save_file({"a": np.ones(2, np.float32)}, other)
    assert keep(secure(other, kept), kept).read_bytes() == other.read_bytes()
    assert checkpoint_at(other).fingerprint == fingerprint(other)


def test_a_directory_of_diffusers_is_a_checkpoint(tmp_path: Path, kept: Path) -> None:
    directory = tmp_path / "checkpoint-500"
    directory.mkdir()
    save_file({"transformer.a": np.ones(2, np.float32)}, directory / "pytorch_lora_weights.safetensors")
    content = (directory / "pytorch_lora_weights.safetensors").read_bytes()
    assert keep(secure(directory, kept), kept).read_bytes() == content
    assert checkpoint_at(directory).fingerprint == hashlib.sha256(content).hexdigest()
    shutil.rmtree(kept)
    assert keep(secure(lambda path: shutil.copytree(directory, path), kept), kept).read_bytes() == content


def test_a_directory_with_two_sets_of_weights_is_refused(tmp_path: Path, kept: Path) -> None:
    peft_adapter(tmp_path / "adapter")
    peft_adapter(tmp_path / "adapter", "pytorch_lora_weights.safetensors")
    with pytest.raises(CheckpointFormat, match=r"holds adapter_model.* and pytorch_lora_weights.*; give the file"):
        secure(tmp_path / "adapter", kept)


def test_no_message_of_a_callable_names_our_temporary_path(kept: Path) -> None:
    def pickled(path: str) -> None:
        Path(path).mkdir()
        (Path(path) / "adapter_model.bin").write_bytes(b"")

    def half(path: str) -> None:
        peft_adapter(Path(path)).with_name("adapter_config.json").unlink()

    for write in (pickled, half, lambda path: Path(path).mkdir(), lambda _: None):
        with pytest.raises(CheckpointError) as caught:
            secure(write, kept)
        assert "pending" not in str(caught.value)
        assert str(kept) not in str(caught.value)


STATES = {
    "alpha": ({"alpha": 16}, {"lora_alpha": "16.0"}),
    "configuration": ({"config": {"r": 4, "lora_alpha": 8, "target_modules": {"to_q"}}}, None),
    "nothing": ({}, {}),
}


@pytest.mark.parametrize("kind", STATES)
def test_a_state_dict_carries_its_alpha(kept: Path, kind: str) -> None:
    options, header = STATES[kind]
    file = keep(secure(LoraState({"a": torch.ones(2)}, **options), kept), kept)
    found = read_header(file).get(METADATA) or {}
    if header is None:
        assert json.loads(found["adapter_config"]) == {"r": 4, "lora_alpha": 8, "target_modules": ["to_q"]}
    else:
        assert found == header


def test_a_configuration_of_peft_is_taken_as_it_is(kept: Path) -> None:
    config = LoraConfig(r=4, lora_alpha=8, use_rslora=True, target_modules=["to_q"])
    file = keep(secure(LoraState({"a": torch.ones(2)}, config=config), kept), kept)
    found = json.loads(told(file)["adapter_config"])
    assert (found["r"], found["lora_alpha"], found["use_rslora"]) == (4, 8, True)


def test_numbers_in_a_state_dict_are_tensors(kept: Path) -> None:
    file = keep(secure({"x.alpha": 4, "x.lora_down.weight": torch.ones(2, 2)}, kept), kept)
    assert load_file(file)["x.alpha"].item() == 4


@pytest.mark.parametrize("alpha", [0, -1, float("nan"), float("inf")])
def test_an_alpha_that_is_none_is_refused(alpha: float) -> None:
    with pytest.raises(ConfigError, match="must be above 0"):
        LoraState({}, alpha=alpha)


@pytest.mark.parametrize("named", ["adapter", "adapter/adapter_model.safetensors"])
def test_a_lora_in_a_store_is_one_file_that_says_its_strength(tmp_path: Path, named: str) -> None:
    peft_adapter(tmp_path / "adapter")
    (tmp_path / "store").mkdir()
    home = f"file://{tmp_path}/store"
    (lora,) = extra_loras([tmp_path / named])
    fetched = tmp_path / "fetched.safetensors"
    store_of(home).get(put_lora(store_of(home), lora, home), fetched)
    assert fingerprint(fetched) == lora.fingerprint
    assert json.loads(told(fetched)["adapter_config"])["lora_alpha"] == 16
