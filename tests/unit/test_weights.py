"""What a trainer hands over as weights: a path, a callable, a state dict; and what cannot be weights."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from safetensors.torch import load_file

from rushes.checkpoints.safetensors import read_header
from rushes.checkpoints.weights import OpenWeights, secure
from rushes.errors import CheckpointFormat, CheckpointMissing, ConfigError


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
