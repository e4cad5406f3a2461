"""A trainer with the parts of musubi-tuner that Rushes meets, and none of the rest; and of accelerate, as much."""

from __future__ import annotations

import argparse
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import save_file

from rushes.client.client import Client
from rushes.wire.results import JobRecord
from support import wait_until

STEPS_PER_EPOCH = 3

HANDED_OVER_S = 30.0


def records(url: str, count: int) -> list[JobRecord]:
    """All samples, once there are `count`."""
    client = Client(url)
    found: list[JobRecord] = []

    def there() -> bool:
        found[:] = client.list()
        return len(found) >= count

    wait_until(there, HANDED_OVER_S, f"{count} samples")
    client.close()
    return found


def steps(found: list[JobRecord]) -> list[int]:
    return sorted(record.job.step for record in found if record.job)


class Network(torch.nn.Module):
    """A LoRA of one layer, saved as musubi-tuner's are."""

    def __init__(self) -> None:
        super().__init__()
        self.down = torch.nn.Parameter(torch.zeros(1, 4))

    def save_weights(self, file: str, dtype: torch.dtype, metadata: dict[str, str]) -> None:
        tensors = {"lora_unet_blocks_0_ffn_0.lora_down.weight": self.down.detach().to(dtype)}
        save_file(tensors, file, {**metadata, "sshs_model_hash": "0", "sshs_legacy_hash": "1"})


class Accelerator:
    """One process, or one of several."""

    split_batches = False

    def __init__(self, *, num_processes: int = 1, is_main_process: bool = True, steps_before: int = 0) -> None:
        self.num_processes = num_processes
        self.is_main_process = is_main_process
        self.trackers: list[Any] = []
        self._models: list[Any] = [SimpleNamespace(module=torch.nn.Identity())]
        scheduler = SimpleNamespace(last_epoch=steps_before * num_processes)
        self._schedulers = [SimpleNamespace(scheduler=scheduler)]

    def unwrap_model(self, model: Any) -> Any:
        return model.module


class TrainerParts:
    """What Rushes meets of a trainer, apart from its loop."""

    def __init__(self, accelerator: Accelerator | None = None) -> None:
        self.accelerator = accelerator or Accelerator()
        self.network = Network()
        self.sampled_by_itself = False
        self.exchanges = 0
        """How often the trainer was to put other weights into its models."""

    def process_sample_prompts(self, *_: Any) -> Any:
        raise AssertionError("the trainer has loaded text encoders")

    def load_vae(self, *_: Any, **__: Any) -> Any:
        raise AssertionError("the trainer has loaded a VAE")

    def resume_from_local_or_hf_if_specified(self, *_: Any) -> bool:
        return False

    def on_before_sample_images(self, *_: Any) -> None:
        self.exchanges += 1

    def on_after_sample_images(self, *_: Any) -> None:
        self.exchanges += 1

    def sample_images(self, *_: Any) -> None:
        self.sampled_by_itself = True

    def generate_step_logs(self, *_: Any, **__: Any) -> dict[str, float]:
        return {"loss": 0.0}


class NetworkTrainer(TrainerParts):
    """The calls that musubi-tuner 0.3 makes around a sample, in their order."""

    architecture = "wan"

    def train(self, args: argparse.Namespace) -> str:
        accelerator, vae = self.accelerator, None
        parameters = None
        if args.sample_prompts:
            parameters = self.process_sample_prompts(args, accelerator, args.sample_prompts)
            vae = self.load_vae(args, vae_dtype=None, vae_path=args.vae)
            vae.requires_grad_(False)
            vae.eval()
        accelerator._models.append(SimpleNamespace(module=self.network))
        self.resume_from_local_or_hf_if_specified(accelerator, args)
        self.sample(args, 0, 0, vae, parameters)
        for step in range(1, args.max_train_steps + 1):
            self.network.down.data += 1
            self.sample(args, None, step, vae, parameters)
            if accelerator.trackers:
                self.generate_step_logs(args, 0.0)
            if step % STEPS_PER_EPOCH == 0:
                self.sample(args, step // STEPS_PER_EPOCH, step, vae, parameters)
        return "trained"

    def sample(self, args: argparse.Namespace, epoch: int | None, step: int, vae: Any, parameters: Any) -> None:
        models = (vae, None, self.network, parameters, None)
        self.on_before_sample_images(self.accelerator, args, epoch, step, *models)
        self.sample_images(self.accelerator, args, epoch, step, vae, None, parameters, None)
        self.on_after_sample_images(self.accelerator, args, epoch, step, *models)


def arguments(directory: Path, redis_url: str, **given: Any) -> argparse.Namespace:
    """A trainer's parsed flags."""
    prompts = directory / "prompts.txt"
    if not prompts.exists():
        prompts.write_text("a red ball --d 1\n")
    flags = {
        "task": "t2v-1.3B",
        "one_frame": False,
        "dit": "dit.safetensors",
        "vae": None,
        "dit_dtype": "bfloat16",
        "resume": None,
        "max_train_steps": 6,
        "sample_prompts": str(prompts),
        "sample_every_n_steps": 2,
        "sample_every_n_epochs": None,
        "sample_at_first": True,
        "save_precision": None,
        "network_module": "networks.lora_wan",
        "network_dim": 4,
        "network_alpha": 4.0,
        "output_dir": str(directory / "out"),
        "output_name": "lora",
        "rushes_url": redis_url,
    }
    return argparse.Namespace(**{**flags, **given})


class FluxNetworkTrainer:
    """The calls that sd-scripts makes around a sample: it asks after every step, due or not."""

    def __init__(self, accelerator: Accelerator | None = None) -> None:
        self.accelerator = accelerator or Accelerator()
        self.network = Network()

    def train(self, args: argparse.Namespace) -> None:
        assert args.sample_prompts is None, "the trainer would encode the prompts"
        self.accelerator._models.append(SimpleNamespace(module=self.network))
        unused = (None,) * 5
        self.sample_images(self.accelerator, args, 0, 0, *unused)
        for step in range(1, args.max_train_steps + 1):
            self.network.down.data += 1
            self.sample_images(self.accelerator, args, None, step, *unused)
            if step % STEPS_PER_EPOCH == 0:
                self.sample_images(self.accelerator, args, step // STEPS_PER_EPOCH, step, *unused)

    def sample_images(self, *_: Any) -> None:
        raise AssertionError("the trainer samples by itself")

    def generate_step_logs(self, *_: Any, **__: Any) -> dict[str, float]:
        return {}
