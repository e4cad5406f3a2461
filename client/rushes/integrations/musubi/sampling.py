"""What takes the place of a musubi-tuner trainer's own sampling."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, get_args

from rushes.integrations.kohya import NotLoaded, Sidecar
from rushes.integrations.launching import add_flags
from rushes.integrations.musubi.families import family_of, given
from rushes.training.cadence import Cadence
from rushes.wire.models import Dtype

if TYPE_CHECKING:

    class NetworkTrainer:
        """What the mixin relies on, as musubi-tuner has it."""

        @property
        def architecture(self) -> str: ...
        def train(self, args: argparse.Namespace) -> Any: ...
        def resume_from_local_or_hf_if_specified(self, accelerator: Any, args: argparse.Namespace) -> bool: ...
        def on_before_sample_images(self, accelerator: Any, args: argparse.Namespace, *rest: Any) -> None: ...
        def on_after_sample_images(self, accelerator: Any, args: argparse.Namespace, *rest: Any) -> None: ...
        def generate_step_logs(self, *args: Any, **kwargs: Any) -> Any: ...

else:
    NetworkTrainer = object


class RushesSampling(NetworkTrainer):
    """Put before a musubi-tuner trainer: `class MyTrainer(RushesSampling, WanNetworkTrainer)`.

    No VAE and no text encoder is loaded, and `sample_images` hands the LoRA to Rushes. The flags are the trainer's
    own, and those of `rushes.add_sampling_arguments` where its parser has them.
    """

    rushes_flags: ClassVar[Mapping[str, Any]] = {}
    """Flags of ours that the launcher has taken from the command line."""

    _sidecar: Sidecar | None = None
    _accelerator: Any = None

    def train(self, args: argparse.Namespace) -> Any:
        """As the trainer's own. At the end waits a little for samples that a tracker is to show."""
        add_flags(args, self.rushes_flags)
        done = False
        try:
            outcome = super().train(args)
            done = True
        finally:
            if self._sidecar is not None:
                self._sidecar.close(self._accelerator, failed=not done)
                self._sidecar = None
        return outcome

    def process_sample_prompts(self, args: argparse.Namespace, accelerator: Any, sample_prompts: str) -> list[Any]:
        """Check the prompt file. Its texts are encoded by the worker.

        Raises:
            PromptError, ArchitectureError, ConfigError: before training, what is wrong with the file or the flags.
        """
        self._accelerator = accelerator
        if accelerator.is_main_process:
            flags = argparse.Namespace(**vars(args))
            flags.rushes_dtype = getattr(args, "rushes_dtype", None) or self._sampling_dtype(args)
            self._sidecar = Sidecar.open(flags, family_of(self.architecture, args), cadence_of(args))
        return []

    def load_vae(self, args: argparse.Namespace, vae_dtype: Any, vae_path: str) -> NotLoaded:
        """Nothing is loaded: the trainer has a VAE for sampling only."""
        return NotLoaded("VAE")

    def _sampling_dtype(self, args: argparse.Namespace) -> str | None:
        """Precision of samples unless `--rushes_dtype` gives one; None is the worker's own."""
        return args.dit_dtype if getattr(args, "dit_dtype", None) in get_args(Dtype) else None

    def resume_from_local_or_hf_if_specified(self, accelerator: Any, args: argparse.Namespace) -> bool:
        """The trainer's own; notes where a resumed run goes on."""
        resumed = super().resume_from_local_or_hf_if_specified(accelerator, args)
        if self._sidecar is not None:
            self._sidecar.resumed(accelerator, args.resume)
        return resumed

    def on_before_sample_images(self, accelerator: Any, args: argparse.Namespace, *rest: Any) -> None:
        """The trainer's own: it may put averaged weights into the network, which then are what is sampled. But the
        base model is not exchanged for the one that samples are made with: the worker has it.
        """
        if not given(args, "--turbo_dit"):
            super().on_before_sample_images(accelerator, args, *rest)

    def on_after_sample_images(self, accelerator: Any, args: argparse.Namespace, *rest: Any) -> None:
        """The trainer's own, which undoes what was done before."""
        if not given(args, "--turbo_dit"):
            super().on_after_sample_images(accelerator, args, *rest)

    def sample_images(
        self, accelerator: Any, args: argparse.Namespace, epoch: int | None, steps: int, *_models: Any, **_more: Any
    ) -> None:
        """Hand the LoRA over, from the main process, when it is due. Nothing is moved and nothing waits."""
        if self._sidecar is not None:
            self._sidecar.sample(accelerator, args, step=steps, epoch=epoch)

    def generate_step_logs(self, *args: Any, **kwargs: Any) -> Any:
        """The trainer's own; called at every step of a run that has a tracker, which is shown what came back."""
        if self._sidecar is not None:
            self._sidecar.report(self._accelerator)
        return super().generate_step_logs(*args, **kwargs)


def cadence_of(args: argparse.Namespace) -> Cadence:
    """When musubi-tuner samples."""
    return Cadence(args.sample_every_n_steps, args.sample_every_n_epochs, bool(args.sample_at_first))
