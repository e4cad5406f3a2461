"""What the full fine-tunes of a trainer like musubi-tuner do once their sampling is moved."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import nn

from rushes.integrations.musubi.fine_tuning import weights_of
from trainer_support import records, steps

TRAINER = """
import sys
from pathlib import Path
from types import SimpleNamespace
from torch import nn
from trainer_support import NetworkTrainer, TrainerParts, arguments

class {name}({base}):
    {architecture}
    def train(self, args):
        accelerator, transformer = self.accelerator, SimpleNamespace(module=nn.Linear(2, 2))
        nn.init.zeros_(transformer.module.weight)
        if args.sample_prompts:
            self.process_sample_prompts(args, accelerator, args.sample_prompts)
            {vae}
        self.resume_from_local_or_hf_if_specified(accelerator, args)
        for step in range(1, args.max_train_steps + 1):
            transformer.module.weight.data += 1
            self.sample_images(accelerator, args, None, step, {models})
        print("sampled by itself:", self.sampled_by_itself)

def main():
    own = {{"max_train_steps": 4, "dit_dtype": "float32", "mixed_precision": "bf16", "dit_in_channels": 16}}
    {name}().train(arguments(Path(sys.argv[1]), None, **own))

if __name__ == "__main__":
    main()
"""
QWEN = {
    "base": "NetworkTrainer",
    "architecture": 'architecture = "qi"',
    "vae": "self.load_vae(args, vae_dtype=None, vae_path=args.vae)",
    "models": 'None, transformer, "parameters", "dtype"',
}
HUNYUAN = {
    "base": "TrainerParts",
    "architecture": "",
    "vae": "raise AssertionError('encoders and a VAE are loaded')",
    "models": '"device", None, transformer, "parameters"',
}
UNMODIFIED = {
    "qwen_image_train": ("QwenImageTrainer", QWEN, "qwen-image"),
    "zimage_train": ("ZImageTrainer", {**QWEN, "architecture": 'architecture = "zi"'}, "z-image"),
    "hv_train": ("FineTuningTrainer", HUNYUAN, "hunyuan-video"),
}
SAVER = """
from safetensors.torch import save_file

def mem_eff_save_file(tensors, path, metadata):
    save_file(tensors, path, metadata)
"""


def install(directory: Path) -> None:
    """The trainer's package, with a script of each kind and one that only imports another's `main`."""
    package = directory / "musubi_tuner"
    (package / "utils").mkdir(parents=True)
    for name in ("__init__.py", "utils/__init__.py"):
        (package / name).touch()
    (package / "hv_train_network.py").write_text("from trainer_support import NetworkTrainer\n")
    (package / "utils" / "safetensors_utils.py").write_text(SAVER)
    for script, (name, parts, _) in UNMODIFIED.items():
        (package / f"{script}.py").write_text(TRAINER.format(name=name, **parts))
    run = "if __name__ == '__main__':\n    main()\n"
    (directory / "wrapper.py").write_text(f"from musubi_tuner.zimage_train import main\n{run}")


@pytest.mark.parametrize(
    ("script", "of"),
    [
        ("musubi_tuner/qwen_image_train.py", "qwen_image_train"),
        ("musubi_tuner.hv_train", "hv_train"),
        ("wrapper.py", "zimage_train"),
    ],
)
def test_a_full_fine_tune_hands_its_transformer_over(script: str, of: str, redis_url: str, tmp_path: Path) -> None:
    install(tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "rushes.integrations.musubi", script, str(tmp_path), "--rushes_url", redis_url],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path]), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "sampled by itself: False" in done.stdout
    found = records(redis_url, 2)
    assert steps(found) == [2, 4]
    for record in found:
        assert record.job.model.architecture == UNMODIFIED[of][2]
        assert record.job.model.dtype == "bfloat16"  # not that of the weights that are changed
        with safe_open(record.job.checkpoint.path, "pt") as file:
            assert set(file.keys()) == {"weight", "bias"}
            assert bool((file.get_tensor("weight") == record.job.step).all())


class Compiled(nn.Module):
    """As torch.compile leaves a block, in a model that the trainer has made to hold itself."""

    def __init__(self) -> None:
        super().__init__()
        block = nn.Module()
        block._orig_mod = nn.Linear(2, 2, bias=False)
        self.blocks = nn.ModuleList([block])
        self._orig_mod = self


def test_names_are_those_without_torch_compile() -> None:
    model = Compiled()
    assert set(weights_of(model)) == {"blocks.0.weight"}
    assert model._orig_mod is model
    assert torch.equal(weights_of(model)["blocks.0.weight"], model.blocks[0]._orig_mod.weight)
