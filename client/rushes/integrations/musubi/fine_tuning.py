"""musubi-tuner's full fine-tunes: the whole transformer is trained, and handed over."""

from __future__ import annotations

import argparse
import functools
from typing import Any

from rushes.integrations.kohya import SAVE_DTYPES, Sidecar, sort_metadata
from rushes.integrations.launching import add_flags
from rushes.integrations.musubi.families import family_of
from rushes.integrations.musubi.sampling import RushesSampling, cadence_of

COMPILED = "_orig_mod"
"""Name under which torch.compile keeps the module that it has compiled."""


class RushesFineTuning(RushesSampling):
    """Put before a trainer of qwen_image_train.py or zimage_train.py, whose loop is its own.

    A hand-over is a file as large as the transformer, below `<output_dir>/.rushes` until its samples are made.
    """

    def _sampling_dtype(self, args: argparse.Namespace) -> str | None:
        """What the trainer computes in: its `dit_dtype` is that of the weights that it changes."""
        return computed_in(args)

    def sample_images(
        self,
        accelerator: Any,
        args: argparse.Namespace,
        epoch: int | None,
        steps: int,
        _vae: Any = None,
        transformer: Any = None,
        *_: Any,
        **__: Any,
    ) -> None:
        """Hand the transformer over, from the main process, when it is due."""
        if self._sidecar is not None:
            save = functools.partial(save_transformer, accelerator, transformer, args)
            self._sidecar.sample(accelerator, args, step=steps, epoch=epoch, save=save)


class RushesHunyuanFineTuning(RushesFineTuning):
    """Put before the trainer of hv_train.py, which shares nothing with the others and makes no samples by itself.

    It is not told of the prompt file: it would load encoders and a VAE, and use neither.
    """

    def train(self, args: argparse.Namespace) -> Any:
        """As the trainer's own.

        Raises:
            PromptError, ArchitectureError, ConfigError: before training, what is wrong with the file or the flags.
        """
        add_flags(args, self.rushes_flags)
        if args.sample_prompts:
            flags = argparse.Namespace(**vars(args))
            flags.rushes_dtype = getattr(args, "rushes_dtype", None) or computed_in(args)
            self._sidecar = Sidecar.open(flags, family_of("hv", args), cadence_of(args))
            args.sample_prompts = None
        return super().train(args)

    def sample_images(
        self,
        accelerator: Any,
        args: argparse.Namespace,
        epoch: int | None,
        steps: int,
        _device: Any = None,
        _vae: Any = None,
        transformer: Any = None,
        *_: Any,
        **__: Any,
    ) -> None:
        """Hand the transformer over, from the main process, when it is due: this trainer calls after every step."""
        if accelerator.is_main_process:
            self._accelerator = accelerator
            super().sample_images(accelerator, args, epoch, steps, None, transformer)
            if self._sidecar is not None:
                self._sidecar.report(accelerator)


def computed_in(args: argparse.Namespace) -> str | None:
    """Precision that a trainer's `--mixed_precision` means; None for accelerate's own configuration."""
    precision = {**SAVE_DTYPES, "no": "float32"}
    return precision.get(args.mixed_precision or "")


def save_transformer(accelerator: Any, model: Any, args: argparse.Namespace, step: int, path: str) -> None:
    """Save a transformer as the trainer saves its checkpoints, tensor by tensor, but without the time of day: the same
    weights of the same step make the same file, hence the same sample.
    """
    from musubi_tuner.utils.safetensors_utils import mem_eff_save_file  # pyright: ignore - the trainer's

    about = {"ss_output_name": str(args.output_name), "ss_steps": str(step)}
    mem_eff_save_file(weights_of(accelerator.unwrap_model(model)), path, about)
    sort_metadata(path)


def weights_of(model: Any) -> dict[str, Any]:
    """The tensors of a model under the names that they have without torch.compile."""
    # The trainer lets a compiled model hold itself; its names would go on for ever.
    itself = next((name for name, child in model.named_children() if child is model), None)
    if itself is not None:
        delattr(model, itself)
    try:
        tensors: dict[str, Any] = model.state_dict()
    finally:
        if itself is not None:
            setattr(model, itself, model)
    return {name.replace(f"{COMPILED}.", ""): tensor for name, tensor in tensors.items()}
