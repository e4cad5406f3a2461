"""What a trainer like musubi-tuner does once its sampling is moved; the real one is in tests/acceptance."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rushes.checkpoints.safetensors import fingerprint
from rushes.errors import ArchitectureError, ConfigError, PromptError
from rushes.integrations.kohya import NotLoaded, save_network
from rushes.integrations.musubi import RushesSampling
from rushes.integrations.musubi.families import WAN_TASKS, family_of
from rushes.integrations.musubi.launcher import MUSUBI_TUNER
from rushes.training.flags import model_from_args
from trainer_support import Accelerator, Network, NetworkTrainer, arguments, records, steps


class Trainer(RushesSampling, NetworkTrainer):
    """As a fork has it: its own trainer behind the mixin."""


def test_sampling_is_handed_over_with_the_trainers_own_cadence(redis_url: str, tmp_path: Path) -> None:
    trainer = Trainer()
    assert trainer.train(arguments(tmp_path, redis_url, sample_every_n_epochs=1)) == "trained"
    assert not trainer.sampled_by_itself
    found = records(redis_url, 5)
    assert steps(found) == [0, 2, 3, 4, 6]
    # Step 6 is due by its number and by its epoch; it is one checkpoint all the same.
    assert {record.job.step: record.job.epoch for record in found if record.job} == {
        0: 0,
        2: None,
        3: 1,
        4: None,
        6: None,
    }
    assert {record.job.model.dtype for record in found if record.job} == {"bfloat16"}


def test_a_resumed_run_counts_on_and_samples_nothing_twice(redis_url: str, tmp_path: Path) -> None:
    Trainer().train(arguments(tmp_path, redis_url, max_train_steps=4))
    resumed = Trainer(Accelerator(num_processes=2, steps_before=4))
    resumed.network.down.data += 4
    resumed.train(arguments(tmp_path, redis_url, max_train_steps=2, resume="out/lora-step00000004-state"))
    assert steps(records(redis_url, 4)) == [0, 2, 4, 6]


def test_only_the_main_process_hands_over(redis_url: str, tmp_path: Path) -> None:
    trainer = Trainer(Accelerator(num_processes=2, is_main_process=False))
    trainer.train(arguments(tmp_path, redis_url))
    Trainer(Accelerator(num_processes=2)).train(arguments(tmp_path, redis_url, max_train_steps=1))
    assert steps(records(redis_url, 1)) == [0]


def test_a_save_that_fails_is_a_failed_sample_and_training_goes_on(redis_url: str, tmp_path: Path) -> None:
    trainer = Trainer()
    trainer.network = Unsaveable()
    assert trainer.train(arguments(tmp_path, redis_url, sample_at_first=False, max_train_steps=2)) == "trained"
    (record,) = records(redis_url, 1)
    error = record.result and record.result.error
    assert error and "the weights could not be saved" in error.message


class Unsaveable(Network):
    """A network whose disk is full."""

    def save_weights(self, *_: Any) -> None:
        raise OSError("no room")


def test_a_wrong_prompt_file_or_an_unserved_family_stops_before_training(redis_url: str, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a ball --w wide\n")
    with pytest.raises(PromptError, match=r"prompts\.txt:1:"):
        Trainer().train(arguments(tmp_path, redis_url))
    with pytest.raises(
        ArchitectureError, match=r"'wan' --task t2v-14B --one_frame.*wan2\.1-t2v.*--rushes_architecture"
    ):
        Trainer().train(arguments(tmp_path, redis_url, task="t2v-14B", one_frame=True))


@pytest.mark.parametrize(
    ("architecture", "flags", "family"),
    [
        *(("wan", {"task": task}, family) for task, family in WAN_TASKS.items()),
        ("qi", {"model_version": "original"}, "qwen-image"),
        ("qie", {"model_version": "edit-2511"}, "qwen-image-edit"),
        ("zi", {}, "z-image"),
        ("kr2", {}, "krea2"),
        ("k5", {"task": "k5-lite-t2v-5s-sd"}, "kandinsky5-t2v"),
        ("k5", {"task": "k5-pro-i2v-5s-sd"}, "kandinsky5-i2v"),
        ("k5", {"task": "k5-lite-t2i-hd"}, "kandinsky5-t2i"),
        ("f2d", {"model_version": "dev"}, "flux2-dev"),
        ("f2k4b", {"model_version": "klein-4b"}, "flux2-klein"),
        ("f2k9b", {"model_version": "klein-base-9b"}, "flux2-klein"),
        ("hv", {"dit_in_channels": 16}, "hunyuan-video"),
        ("hv", {"dit_in_channels": 32}, "skyreels-v1-i2v"),
        ("hv", {"dit_in_channels": 16, "rushes_architecture": "skyreels-v1-t2v"}, "skyreels-v1-t2v"),
        ("fp", {}, "framepack"),
        ("fk", {}, "flux1-kontext"),
        ("hv15", {"task": "t2v"}, "hunyuan-video-1.5-t2v"),
        ("hv15", {"task": "i2v"}, "hunyuan-video-1.5-i2v"),
    ],
)
def test_the_family_follows_from_the_trainers_own_flags(
    architecture: str, flags: dict[str, Any], family: str, tmp_path: Path
) -> None:
    assert family_of(architecture, arguments(tmp_path, "", **flags)) == family


@pytest.mark.parametrize("task", ["i2v-14B", "flf2v-14B"])
def test_one_frame_makes_wan_another_family(task: str, tmp_path: Path) -> None:
    args = arguments(tmp_path, "", task=task, one_frame=True)
    assert model_from_args(vars(args), family_of("wan", args), None).architecture == "wan-one-frame"


def test_samples_may_be_made_with_other_transformers_than_training(tmp_path: Path) -> None:
    files = {"dit": "high", "rushes_dit": "low", "rushes_dit_high_noise": "high"}
    experts = {"rushes_experts": "both", "rushes_lora_expert": "high"}
    model = model_from_args(vars(arguments(tmp_path, "", **files, **experts)), "wan2.2-t2v-a14b", None)
    assert (model.dit, model.dit_high_noise, model.experts, model.lora_expert) == ("low", "high", "both", "high")


def test_the_same_weights_of_a_step_make_the_same_file(tmp_path: Path) -> None:
    network, args = Network(), arguments(tmp_path, "")
    for number in range(8):  # safetensors writes metadata in another order each time
        save_network(network, args, 4, str(tmp_path / f"{number}.safetensors"))
    assert len({fingerprint(path) for path in tmp_path.glob("*.safetensors")}) == 1


def test_a_model_that_is_not_loaded_says_so() -> None:
    vae = NotLoaded("VAE")
    assert vae.requires_grad_(False).eval().to("cuda") is vae
    with pytest.raises(AttributeError, match=r"VAE is not loaded.*\.decode"):
        vae.decode  # noqa: B018


INSTALLED = "from trainer_support import NetworkTrainer"
SCRIPT = """
import sys
from musubi_tuner.hv_train_network import NetworkTrainer
from trainer_support import arguments

class WanNetworkTrainer(NetworkTrainer):
    pass

def main():
    directory, url, steps = sys.argv[1:]
    trainer = WanNetworkTrainer()
    trainer.train(arguments(__import__("pathlib").Path(directory), None, max_train_steps=int(steps)))
    print("sampled by itself:", trainer.sampled_by_itself)

if __name__ == "__main__":
    main()
"""
OWN_LOOP = """
from musubi_tuner.hv_train_network import NetworkTrainer

class FineTuner(NetworkTrainer):
    def train(self, args):
        raise AssertionError("it has trained")
"""


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A directory in which the trainer is installed, with two scripts."""
    (tmp_path / "musubi_tuner").mkdir()
    (tmp_path / "musubi_tuner" / "__init__.py").write_text("")
    (tmp_path / "musubi_tuner" / "hv_train_network.py").write_text(INSTALLED)
    (tmp_path / "wan_train_network.py").write_text(SCRIPT)
    (tmp_path / "wan_train.py").write_text(OWN_LOOP)
    return tmp_path


def launched(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The launcher as its user calls it."""
    paths = os.pathsep.join([str(directory), *sys.path])
    return subprocess.run(
        [sys.executable, "-m", "rushes.integrations.musubi", *arguments],
        cwd=directory,
        env={"PYTHONPATH": paths, "PATH": "", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )


def test_the_launcher_runs_an_unmodified_script(redis_url: str, installed: Path) -> None:
    url = ("--rushes_url", redis_url, "--rushes_run", "mine")
    done = launched(installed, "wan_train_network.py", str(installed), *url, "-", "2")
    assert done.returncode == 0, done.stderr
    assert "sampled by itself: False" in done.stdout
    found = records(redis_url, 2)
    assert steps(found) == [0, 2]
    assert {record.run for record in found} == {"mine"}
    refused = launched(installed, "wan_train.py")
    assert refused.returncode == 1
    assert "wan_train.py does not train with musubi-tuner's NetworkTrainer" in refused.stderr


def test_a_version_that_lacks_a_name_is_told_apart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "musubi_of_old.py").write_text("class NetworkTrainer:\n    def train(self, args): ...\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    old = MUSUBI_TUNER.__class__(**{**vars(MUSUBI_TUNER), "module": "musubi_of_old"})
    with pytest.raises(ConfigError, match=r"has no process_sample_prompts, .*0\.3\.0 to 0\.3\.4"):
        old.base_class()
    absent = MUSUBI_TUNER.__class__(**{**vars(MUSUBI_TUNER), "module": "musubi_nowhere"})
    with pytest.raises(ConfigError, match="environment that you train in"):
        absent.base_class()


def test_turbos_weights_stand_in_for_those_that_are_trained(tmp_path: Path) -> None:
    turbo = tmp_path / "turbo.safetensors"
    turbo.touch()
    args = arguments(tmp_path, "", dit="raw.safetensors", turbo_dit=str(turbo))
    model = model_from_args(vars(args), family_of("kr2", args), None)
    assert (model.dit, model.model_version) == (str(turbo), "turbo")
    trainer = Trainer()
    trainer.on_before_sample_images(trainer.accelerator, args)
    trainer.on_after_sample_images(trainer.accelerator, args)
    assert trainer.exchanges == 0  # the worker has them: here they would be loaded for nothing
    args.turbo_dit = None
    trainer.on_before_sample_images(trainer.accelerator, args)
    assert trainer.exchanges == 1  # averaged weights, say
    model = model_from_args(vars(args), family_of("kr2", args), None)
    assert (model.dit, model.model_version) == ("raw.safetensors", None)


@pytest.mark.parametrize(("version", "said"), [("klein-9b", "klein-9b"), ("klein-base-4b", None)])
def test_the_version_of_a_model_is_part_of_it_unless_it_is_the_first(
    version: str, said: str | None, tmp_path: Path
) -> None:
    args = arguments(tmp_path, "", model_version=version)
    assert model_from_args(vars(args), family_of("f2k9b", args), None).model_version == said
