"""What docs/trainers.md tells trainer authors is run as it is written."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from diffusers import WanTransformer3DModel

from family_support import build_tiny
from rushes import Client, TrainingSampler
from rushes.training.flags import SAMPLING_FLAGS
from rushes_service.demo.trainer import LoraNetwork
from rushes_service.processes.embedded_redis import EmbeddedRedis

GUIDE = Path(__file__).parents[2] / "docs" / "trainers.md"
LINES, EPOCHS, WEIGHTS, *_ = re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture
def trainer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, object]]:
    """The names a trainer has, in a directory of its own, with a queue of its own."""
    model = build_tiny("wan2.1-t2v", tmp_path / "model")
    network = LoraNetwork(WanTransformer3DModel.from_pretrained(model, subfolder="transformer"), rank=2, alpha=2.0)
    (tmp_path / "prompts.txt").write_text("a disc --w 64 --h 64 --d 1\n")
    parser = argparse.ArgumentParser()
    parser.add_argument("--max_train_steps", type=int)
    monkeypatch.chdir(tmp_path)
    with EmbeddedRedis(tmp_path / "state", port=0) as server:
        flags = "--max_train_steps 4 --sample_prompts prompts.txt --sample_every_n_steps 2 --sample_every_n_epochs 1 "
        flags += (
            f"--sample_at_first --output_dir out --output_name my_lora --rushes_model model --rushes_url {server.url}"
        )
        monkeypatch.setattr(sys, "argv", ["train.py", *flags.split()])
        yield {"parser": parser, "network": network, "dtype": torch.bfloat16, "metadata": {}, "url": server.url}


def sampled(trainer: dict[str, object]) -> list[tuple[int, int | None]]:
    """Steps and epochs of the queued samples, oldest first."""
    client = Client(str(trainer["url"]))
    jobs = [record.job for record in client.list() if record.job]
    client.close()
    return sorted((job.step, job.epoch) for job in jobs)


def test_the_lines_submit_every_checkpoint(trainer: dict[str, object]):
    exec(LINES, trainer)
    assert sampled(trainer) == [(0, None), (2, None), (4, None)]


def test_an_end_of_epoch_is_submitted_with_its_epoch(trainer: dict[str, object]):
    exec(LINES.split("for global_step")[0], trainer)
    sampler = trainer["sampler"]
    assert isinstance(sampler, TrainingSampler)
    exec(
        EPOCHS.replace("weights=...", "weights=lambda path: network.save_weights(path, dtype, metadata)"),
        {**trainer, "global_step": 3, "epoch": 1},
    )
    sampler.close()
    assert sampled(trainer) == [(3, 1)]


def test_weights_come_in_three_forms(trainer: dict[str, object]):
    exec(LINES.split("for global_step")[0], trainer)
    sampler, network = trainer["sampler"], trainer["network"]
    assert isinstance(sampler, TrainingSampler) and isinstance(network, LoraNetwork)
    Path("out").mkdir(exist_ok=True)
    network.save_weights("out/my_lora-step00000100.safetensors", torch.bfloat16, {})
    state = {f"lora_unet_blocks_0_ffn_0.lora_{half}.weight": torch.ones(2, 2) for half in ("down", "up")}
    for step, line in enumerate(WEIGHTS.strip().splitlines(), start=1):
        exec(line, {**trainer, "torch": torch, "global_step": step, "lora_state_dict": state})
    sampler.close()
    assert sampled(trainer) == [(1, None), (2, None), (3, None)]


def test_every_flag_is_explained():
    text = GUIDE.read_text(encoding="utf-8")
    assert [flag for flag in SAMPLING_FLAGS if f"`{flag}`" not in text and f"`{flag} " not in text] == []


def test_the_example_is_the_demos_own_trainer():
    example = GUIDE.parents[1] / "examples" / "train_lora_wan.py"
    assert example.resolve() == Path(sys.modules[LoraNetwork.__module__].__file__ or "").resolve()
