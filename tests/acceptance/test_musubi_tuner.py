"""The real musubi-tuner, unmodified, with tiny random weights, a few steps on a CPU, sampled by a real worker.

Runs where RUSHES_MUSUBI_TUNER names what is to be on the trainer's PYTHONPATH: musubi-tuner's `src`, and the versions
of its dependencies that this environment has not (see docs/integrations/musubi-tuner.md).
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from processes import PROGRAMS, workers
from safetensors.torch import save_file

from rushes.client.client import Client
from rushes.families.rows.wan import WAN21_T2V
from rushes.wire.results import JobRecord, JobState
from single_files_support import original_files

PATH = os.environ.get("RUSHES_MUSUBI_TUNER")

PRODUCT = [path for path in sys.path if Path(path, "rushes").is_dir() or Path(path, "rushes_service").is_dir()]
"""Where the product itself is imported from."""

TRAINING_S = 600.0
"""For six steps of a few milliseconds, and the imports before them, on a busy machine."""

pytestmark = [
    pytest.mark.skipif(
        not PATH, reason="RUSHES_MUSUBI_TUNER does not name a musubi-tuner (its src directory, and its dependencies')"
    ),
    pytest.mark.timeout(2 * TRAINING_S),
]

PROMPTS = "a red ball --w 32 --h 32 --f 5 --s 2 --d 1\na cat --w 32 --h 32 --s 2 --d 2\n"

DATASET = """
[general]
resolution = [64, 64]
batch_size = 1
[[datasets]]
video_directory = "{directory}/videos"
cache_directory = "{directory}/cache"
target_frames = [9]
"""


@dataclass
class Trainer:
    """musubi-tuner with a data set of its own, and what it is told."""

    directory: Path
    model: Path
    redis_url: str

    def __post_init__(self) -> None:
        self.out = self.directory / "out"
        self.tripped = self.directory / "tripped"
        files = original_files(WAN21_T2V, self.model, self.directory / "files")
        write_dataset(self.directory)
        (self.directory / "prompts.txt").write_text(PROMPTS)
        self.arguments = [
            *(part for flag, file in files.items() for part in (f"--{flag}", file)),
            *f"--task t2v-1.3B --sdpa --mixed_precision no --optimizer_type AdamW --learning_rate 0.01 --seed 1 "
            f"--dataset_config {self.directory}/data.toml --max_data_loader_n_workers 0 "
            f"--network_module networks.lora_wan --network_dim 4 --network_alpha 4 "
            f"--output_dir {self.out} --output_name lora --sample_prompts {self.directory}/prompts.txt "
            f"--rushes_url {self.redis_url}".split(),
        ]

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Training, as its user starts it but for the program that lets it run on a CPU."""
        command = [sys.executable, str(PROGRAMS / "musubi_on_a_cpu.py"), str(self.tripped)]
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([PATH or "", *PRODUCT]),
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
        }
        return subprocess.Popen(
            [*command, "musubi_tuner.wan_train_network", *self.arguments, *arguments],
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def run(self, *arguments: str) -> str:
        """Train to the end; what was said."""
        with self.start(*arguments) as process:
            said, _ = process.communicate(timeout=TRAINING_S)
        assert process.returncode == 0, said
        return said


def write_dataset(directory: Path) -> None:
    """Two clips as musubi-tuner's caches hold them: latents, and embeddings of their captions."""
    cache = directory / "cache"
    cache.mkdir()
    generator = torch.Generator().manual_seed(0)
    about = {"architecture": "wan", "format_version": "1.0.1"}
    for clip in ("a", "b"):
        latents = {"latents_3x8x8_float32": torch.randn(16, 3, 8, 8, generator=generator)}
        size = {"width": "64", "height": "64", "frame_count": "9"}
        save_file(latents, cache / f"{clip}_00000-009_0064x0064_wan.safetensors", {**about, **size})
        text = {"varlen_t5_float32": torch.randn(7, 32, generator=generator)}
        save_file(text, cache / f"{clip}_wan_te.safetensors", {**about, "caption1": "a ball"})
    (directory / "videos").mkdir()
    (directory / "data.toml").write_text(DATASET.format(directory=directory))


def test_musubi_tuner_trains_and_every_checkpoint_is_sampled_elsewhere(
    redis_url: str, tiny_wan: Path, tmp_path: Path
) -> None:
    trainer = Trainer(tmp_path, tiny_wan, redis_url)
    steps = ["--max_train_steps", "6", "--sample_every_n_steps", "2", "--sample_at_first"]
    rotating = ["--save_every_n_steps", "2", "--save_last_n_steps", "1", "--save_last_n_steps_state", "4"]
    tracked = f"--log_with tensorboard --logging_dir {tmp_path}/logs --rushes_wait 240".split()
    with workers(redis_url, tmp_path) as pool:
        pool.start()
        said = trainer.run(*steps, *rotating, *tracked, "--save_state")
        assert not trainer.tripped.exists(), trainer.tripped.read_text()
        assert "removing old checkpoint" in said
        records = records_of(redis_url)
        assert sorted((record.job.step, record.job.prompt_index) for record in records) == [
            (step, prompt) for step in (0, 2, 4, 6) for prompt in (0, 1)
        ]
        assert {record.state for record in records} == {JobState.DONE}, said
        assert len({record.job.checkpoint and record.job.checkpoint.fingerprint for record in records}) == 4
        assert all(Path(record.result.path).is_file() for record in records)

        (shown,) = tmp_path.glob("logs/*/network_train/samples/*tfevents*")
        assert [shown.read_bytes().count(tag) >= 4 for tag in (b"sample_0", b"sample_1")] == [True, True]

        # A run that is resumed counts on, and samples nothing twice: what it is resumed from was sampled before.
        resumed = ["--resume", f"{trainer.out}/lora-step00000004-state", "--max_train_steps", "2"]
        said = trainer.run(*resumed, "--sample_every_n_steps", "2", "--sample_at_first")
        assert "step 4 is handed over" in said
        assert "samples are counted from step 4 on" in said
        assert "step 6 is handed over" in said
        again = [record.job.step for record in records_of(redis_url)]
        assert [again.count(step) for step in (0, 2, 4)] == [2, 2, 2]
        assert not trainer.tripped.exists()


def test_a_wrong_prompt_file_is_told_before_the_model_is_loaded(redis_url: str, tiny_wan: Path, tmp_path: Path) -> None:
    trainer = Trainer(tmp_path, tiny_wan, redis_url)
    (tmp_path / "prompts.txt").write_text("a red ball --w wide\n")
    with trainer.start("--max_train_steps", "1") as process:
        said, _ = process.communicate(timeout=TRAINING_S)
    assert process.returncode == 1
    assert re.search(r"error: .*prompts\.txt:1:\d+: ", said)
    assert "Traceback" not in said
    assert "Loading DiT model" not in said


def records_of(redis_url: str) -> list[JobRecord]:
    """Every sample there is."""
    client = Client(redis_url)
    try:
        return client.list()
    finally:
        client.close()
