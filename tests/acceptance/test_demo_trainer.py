"""The demo's trainer: it trains, and what it saves is what other tools expect of a Wan LoRA."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import WanPipeline, WanTransformer3DModel
from safetensors import safe_open

from family_support import build_tiny
from rushes import Client
from rushes_service.demo.trainer import Dataset, LoraNetwork, flow_matching_loss, original_name
from rushes_service.processes.embedded_redis import EmbeddedRedis

KEY = re.compile(r"lora_unet_blocks_\d+_((self|cross)_attn_[qkvo]|ffn_[02])\.(lora_down\.weight|lora_up\.weight|alpha)")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model's directory."""
    return build_tiny("wan2.1-t2v", tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def transformer(model: Path) -> WanTransformer3DModel:
    """A fresh transformer to hang a LoRA on."""
    return WanTransformer3DModel.from_pretrained(model, subfolder="transformer")


def test_modules_are_named_as_in_wans_own_code():
    assert original_name("blocks.0.attn1.to_q") == "blocks_0_self_attn_q"
    assert original_name("blocks.11.attn2.to_out.0") == "blocks_11_cross_attn_o"
    assert original_name("blocks.1.ffn.net.0.proj") == "blocks_1_ffn_0"
    assert original_name("blocks.1.ffn.net.2") == "blocks_1_ffn_2"


def test_a_saved_lora_is_musubi_tuners_format(transformer: WanTransformer3DModel, tmp_path: Path):
    network = LoraNetwork(transformer, rank=4, alpha=2.0)
    network.save_weights(tmp_path / "lora.safetensors", torch.bfloat16, {"ss_base_model_version": "wan2.1"})
    with safe_open(tmp_path / "lora.safetensors", "pt") as file:
        keys = list(file.keys())
        assert file.metadata() == {"ss_base_model_version": "wan2.1", "ss_network_dim": "4"}
        assert file.get_tensor("lora_unet_blocks_0_ffn_0.lora_down.weight").shape == (4, 64)
        assert file.get_tensor("lora_unet_blocks_0_ffn_0.alpha").item() == 2.0
    assert len(keys) == 2 * 10 * 3
    assert [key for key in keys if not KEY.fullmatch(key)] == []


def test_diffusers_reads_a_saved_lora_as_the_model_that_was_trained(
    model: Path, transformer: WanTransformer3DModel, tmp_path: Path
):
    torch.manual_seed(0)
    network = LoraNetwork(transformer, rank=4, alpha=2.0)
    for layer in network.layers.values():
        torch.nn.init.normal_(layer.up, std=0.1)
    network.save_weights(tmp_path / "lora.safetensors", torch.float32, {})
    inputs = torch.randn(1, 16, 2, 4, 4), torch.tensor([500.0]), torch.randn(1, 512, 32)
    pipe = WanPipeline.from_pretrained(model, text_encoder=None, tokenizer=None)
    with torch.no_grad():
        base = pipe.transformer(*inputs).sample
        pipe.load_lora_weights(tmp_path / "lora.safetensors")
        loaded = pipe.transformer(*inputs).sample
        trained = transformer(*inputs).sample
    assert (loaded - trained).abs().max() <= 1e-5
    assert (loaded - base).abs().max() > 0.1


def test_training_learns_and_leaves_the_base_weights_alone(model: Path, transformer: WanTransformer3DModel):
    torch.manual_seed(0)
    data = Dataset(str(model), frames=5, seed=0, count=4)
    network = LoraNetwork(transformer, rank=8, alpha=8.0)
    before = {name: layer.base.weight.clone() for name, layer in network.layers.items()}
    optimizer = torch.optim.AdamW(network.parameters(), lr=5e-3)
    losses = []
    for _ in range(15):
        loss = flow_matching_loss(transformer, *data.draw(4))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-3:]) < 0.8 * sum(losses[:3])
    assert all(torch.equal(layer.base.weight, before[name]) for name, layer in network.layers.items())


def test_every_checkpoint_is_submitted_and_the_trainer_measures_what_that_cost(model: Path, tmp_path: Path):
    (tmp_path / "prompts.txt").write_text("a disc --w 64 --h 64 --d 1\na square --w 64 --h 64 --f 5 --d 2\n")
    flags = {
        "--rushes_model": model,
        "--output_dir": tmp_path / "out",
        "--output_name": "disc",
        "--sample_prompts": tmp_path / "prompts.txt",
        "--sample_every_n_steps": 2,
        "--max_train_steps": 4,
        "--frames": 5,
        "--report": tmp_path / "report.json",
    }
    arguments = [str(part) for flag in flags.items() for part in flag]
    with EmbeddedRedis(tmp_path / "state", port=0) as server:
        trained = subprocess.run(
            [sys.executable, "-m", "rushes_service.demo.trainer", "--sample_at_first", *arguments],
            env={**os.environ, "RUSHES_REDIS_URL": server.url},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert trained.returncode == 0, trained.stderr
        client = Client(server.url)
        jobs = [record.job for record in client.list()]
        client.close()
    assert sorted((job.step, job.prompt_index) for job in jobs) == [(s, p) for s in (0, 2, 4) for p in (0, 1)]
    assert {job.step for job in jobs if job.checkpoint is None} == {0}
    assert len({job.checkpoint.fingerprint for job in jobs if job.checkpoint}) == 2
    assert (tmp_path / "out" / "disc.safetensors").is_file()
    report = json.loads((tmp_path / "report.json").read_text())
    assert len(report["submits_s"]) == 3
    assert sum(report["submits_s"]) <= report["held_up_s"] <= report["training_s"]


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ([], "--rushes_model"),
        (["--rushes_model", "nowhere", "--output_dir", "out"], "nowhere"),
    ],
)
def test_a_wrong_command_line_is_a_sentence(flags: list[str], told: str, tmp_path: Path):
    command = [sys.executable, "-m", "rushes_service.demo.trainer", *flags]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    ended = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    said = ended.stdout + ended.stderr
    assert ended.returncode in (1, 2)
    assert told in said and "Traceback" not in said
