"""A trainer on one machine and a worker on another, where the same files have other paths."""

from __future__ import annotations

import json
from pathlib import Path

from processes import Workers

from client_support import snapshots
from engine_support import write_lora
from family_support import build_tiny
from rushes import Cadence, Client, ModelSpec, Run, TrainingSampler
from rushes.wire.results import JobState
from support import wait_until

START_S = 120.0


def train(there: Path, url: str) -> None:
    """Submit two checkpoints of one prompt from the directory `there`."""
    (there / "prompts.txt").write_text("a red ball --w 32 --h 32 --f 1 --s 2 --d 1\n")
    model = ModelSpec(architecture="wan2.1-t2v", model=str(build_tiny("wan2.1-t2v", there / "model")))
    run = Run(name="run", model=model, output_dir=str(there / "out"), output_name="lora")
    sampler = TrainingSampler(run, there / "prompts.txt", Cadence(), url=url)
    for step in (10, 20):
        weights = write_lora(there / f"lora-{step}.safetensors", seed=step)
        sampler.submit(step=step, weights=weights)
    sampler.close()


def test_files_are_found_under_their_name_here_and_told_under_their_name_there(
    client: Client, pool: Workers, redis_url: str, tmp_path: Path
) -> None:
    there, here = tmp_path / "train", tmp_path / "mnt" / "train"
    there.mkdir()
    train(there, redis_url)
    assert len(snapshots(there / "out")) == 2
    here.parent.mkdir()
    there.rename(here)  # from here on this machine is the worker's

    assert pool.start("--map", f"{there}={here}", "--until-empty").wait(START_S) == 0
    results, _ = client.results("run")
    assert [result.state for result in results] == [JobState.DONE, JobState.DONE], pool.logs()
    assert not there.exists()
    wait_until(lambda: snapshots(here / "out") == [], 10, "the snapshots to be released")

    here.rename(there)  # and this one is the trainer's again
    for result in results:
        assert result.path and result.receipt
        assert Path(result.path).parent == there / "out" / "sample"
        assert Path(result.path).stat().st_size > 0
        receipt = json.loads(Path(result.receipt).read_text())
        assert receipt["checkpoint"]["source"] == str(there / f"lora-{result.step}.safetensors")
        assert str(here) not in Path(result.receipt).read_text()


def test_a_map_that_is_none_is_said_at_once(pool: Workers) -> None:
    worker = pool.start("--map", "/train")
    assert worker.wait(START_S) == 2
    assert "write THERE=HERE" in pool.logs()
    assert "Traceback" not in pool.logs()


def test_the_map_can_be_a_setting(pool: Workers) -> None:
    worker = pool.start("--dry-run", "--until-empty", RUSHES_MAP="/a=/b:/c=d")
    assert worker.wait(START_S) == 2
    assert "/c=d" in pool.logs()
