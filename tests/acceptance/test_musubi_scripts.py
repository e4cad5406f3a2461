"""Every script of the real musubi-tuner, with tiny random weights, two steps on a CPU, sampled by a real worker.

Runs where `test_musubi_tuner` does.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from musubi_cases import FINE_TUNES, SCRIPTS, Script, write_dataset, write_prompt
from processes import PROGRAMS, workers
from safetensors.torch import load_file, save_file
from test_musubi_tuner import PATH, PRODUCT, TRAINING_S, pytestmark, records_of

from family_support import build_tiny
from rushes.families.table import ARCHITECTURES
from rushes.wire.results import JobRecord, JobState
from rushes_service.media.receipts import read_receipt
from single_files_support import original_files

__all__ = ["pytestmark"]

STEPS = (0, 1, 2)
RATE = 0.05
"""Learning rate that two steps show with."""


def train(script: Script, directory: Path, redis_url: str) -> str:
    """Two steps of a script, with everything that its user gives it; what was said."""
    model = build_tiny(script.family, directory / "model")
    files = original_files(ARCHITECTURES[script.family], model, directory / "files")
    name_as_published(Path(files["dit"]))
    command = [
        *(sys.executable, str(PROGRAMS / "musubi_on_a_cpu.py"), str(directory / "tripped")),
        f"musubi_tuner.{script.name}",
        *(part for flag, file in files.items() for part in (f"--{flag}", file)),
        *script.flags.split(),
        *f"--sdpa --optimizer_type AdamW --learning_rate {RATE} --seed 1 --max_train_steps {STEPS[-1]} "
        f"--dataset_config {write_dataset(script, directory)} --max_data_loader_n_workers 0 "
        f"--output_dir {directory}/out --output_name lora --sample_prompts {write_prompt(script, directory)} "
        f"--sample_every_n_steps 1 --sample_at_first --rushes_url {redis_url}".split(),
    ]
    environment = {"PYTHONPATH": os.pathsep.join([PATH or "", *PRODUCT]), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        command,
        env={**os.environ, **environment},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=TRAINING_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def name_as_published(dit: Path) -> None:
    """Give the norms of a FLUX transformer the one of their two names that musubi-tuner knows."""
    tensors = {name.lstrip("."): tensor for name, tensor in load_file(dit).items()}
    norm = re.compile(r"(query|key)_norm\.weight$")
    save_file({norm.sub(r"\1_norm.scale", name): tensor for name, tensor in tensors.items()}, dit)


def sampled(script: Script, directory: Path, redis_url: str) -> list[JobRecord]:
    """A script's samples, after training, in order; neither an encoder nor a sampler of its own was touched."""
    said = train(script, directory, redis_url)
    tripped = directory / "tripped"
    assert not tripped.exists(), tripped.read_text()
    with workers(redis_url, directory) as pool:
        assert pool.start("--until-empty").wait(TRAINING_S) == 0
        records = sorted(records_of(redis_url), key=lambda record: record.job.step)
        assert [(record.job.step, record.state) for record in records] == [(step, JobState.DONE) for step in STEPS], (
            said + pool.logs()
        )
    assert {record.job.model.architecture for record in records} == {script.family}
    return records


@pytest.mark.parametrize("script", (*SCRIPTS, *FINE_TUNES), ids=lambda script: script.id)
def test_every_step_that_is_trained_is_sampled_elsewhere(script: Script, redis_url: str, tmp_path: Path) -> None:
    for record in sampled(script, tmp_path, redis_url)[1:]:
        receipt = read_receipt(Path(record.result.receipt))
        assert receipt["lora"]["sha256"] == record.job.checkpoint.fingerprint
        assert receipt["drift"]["pixels"] > 0  # it shows, beside the base model's sample
