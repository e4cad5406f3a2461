"""musubi-tuner, with sampling moved to Rushes.

    python -m rushes.integrations.musubi wan_train_network.py --task t2v-1.3B --sample_prompts prompts.txt ...

Whoever keeps a fork puts `RushesSampling` in front of its trainer's class instead.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, get_args

from rushes.errors import ArchitectureError
from rushes.families.table import ARCHITECTURES
from rushes.integrations.kohya import NotLoaded, Sidecar
from rushes.integrations.launching import Trainer, add_flags, launch
from rushes.training.cadence import Cadence
from rushes.wire.jobs import Dtype

WAN_TASKS = {
    "t2v-1.3B": "wan2.1-t2v",
    "t2v-14B": "wan2.1-t2v",
    "t2i-14B": "wan2.1-t2v",
    "i2v-14B": "wan2.1-i2v",
    "flf2v-14B": "wan2.1-flf2v",
    "t2v-1.3B-FC": "wan2.1-fun-control",
    "t2v-14B-FC": "wan2.1-fun-control",
    "i2v-14B-FC": "wan2.1-fun-control",
    "t2v-A14B": "wan2.2-t2v-a14b",
    "i2v-A14B": "wan2.2-i2v-a14b",
}
"""`--task` of wan_train_network.py -> family."""

SKYREELS_I2V_CHANNELS = 32
"""`--dit_in_channels` of hv_train_network.py by which it knows SkyReels V1 I2V."""


def hunyuan_family(args: argparse.Namespace) -> str:
    """HunyuanVideo, or SkyReels by its input channels. SkyReels T2V has HunyuanVideo's: it must be named."""
    return "skyreels-v1-i2v" if args.dit_in_channels == SKYREELS_I2V_CHANNELS else "hunyuan-video"


def wan_family(args: argparse.Namespace) -> str | None:
    """Wan by its task; None for those that are not served. `--one_frame` makes it another, as FramePack's."""
    family = WAN_TASKS.get(args.task)
    if family is None or not given(args, "--one_frame"):
        return family
    return family if any(flag == "one_frame" for flag, _ in ARCHITECTURES[family].variants) else None


FAMILIES: Mapping[str, Callable[[argparse.Namespace], str | None]] = {
    "hv": hunyuan_family,
    "wan": wan_family,
    "hv15": lambda args: f"hunyuan-video-1.5-{args.task}",
    "fp": lambda _args: "framepack",  # `--one_frame` makes it another, see `ArchitectureSpec.variants`
    "fk": lambda _args: "flux1-kontext",
    "qi": lambda _args: "qwen-image",
    "qie": lambda _args: "qwen-image-edit",  # which one is said by `--model_version`, as for FLUX.2
    "zi": lambda _args: "z-image",
    "kr2": lambda _args: "krea2",  # `--turbo_dit` makes it Turbo, see `ArchitectureSpec.stand_ins`
    "f2d": lambda _args: "flux2-dev",
    "f2k4b": lambda _args: "flux2-klein",
    "f2k9b": lambda _args: "flux2-klein",
}
"""A trainer's own short name of its architecture -> which family its flags mean."""


def family_of(architecture: str, args: argparse.Namespace) -> str:
    """The family to sample.

    Args:
        architecture: the trainer's own `architecture`.

    Raises:
        ArchitectureError: Rushes does not serve what is trained.
    """
    if named := getattr(args, "rushes_architecture", None):
        return named
    family = FAMILIES[architecture](args) if architecture in FAMILIES else None
    if family is None:
        flags = "".join(f" {flag} {getattr(args, flag[2:])}" for flag in ("--task", "--one_frame") if given(args, flag))
        raise ArchitectureError(
            f"Rushes cannot sample what musubi-tuner calls {architecture!r}{flags}; it can sample "
            f"{', '.join(sorted(ARCHITECTURES))}. If one of them is meant, say --rushes_architecture"
        )
    return family


def given(args: argparse.Namespace, flag: str) -> bool:
    """True when a flag has a value."""
    return bool(getattr(args, flag[2:], None))


if TYPE_CHECKING:

    class NetworkTrainer:
        """What the mixin relies on, as musubi-tuner has it."""

        @property
        def architecture(self) -> str: ...
        def train(self, args: argparse.Namespace) -> Any: ...
        def on_train_start(self, args: argparse.Namespace, accelerator: Any, *models: Any) -> None: ...
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
            if getattr(args, "dit_dtype", None) in get_args(Dtype) and not given(args, "--rushes_dtype"):
                flags.rushes_dtype = args.dit_dtype
            cadence = Cadence(args.sample_every_n_steps, args.sample_every_n_epochs, bool(args.sample_at_first))
            self._sidecar = Sidecar.open(flags, family_of(self.architecture, args), cadence)
        return []

    def load_vae(self, args: argparse.Namespace, vae_dtype: Any, vae_path: str) -> NotLoaded:
        """Nothing is loaded: the trainer has a VAE for sampling only."""
        return NotLoaded("VAE")

    def on_train_start(self, args: argparse.Namespace, accelerator: Any, *models: Any, **more: Any) -> None:
        """Note where a resumed run goes on."""
        super().on_train_start(args, accelerator, *models, **more)
        if self._sidecar is not None:
            self._sidecar.resumed(accelerator, args.resume)

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


MUSUBI_TUNER = Trainer(
    name="musubi-tuner",
    module="musubi_tuner.hv_train_network",
    base="NetworkTrainer",
    needs=("train", "process_sample_prompts", "load_vae", "on_train_start", "sample_images", "generate_step_logs"),
    tried="versions 0.3.0 to 0.3.4",
    mixin=RushesSampling,
)


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m rushes.integrations.musubi <script> <arguments>`."""
    return launch(MUSUBI_TUNER, sys.argv[1:] if argv is None else argv)


if __name__ == "__main__":
    raise SystemExit(main())
