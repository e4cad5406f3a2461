"""A pipeline whose weights lie in one file, in the names of their release, and whose configuration is in a directory.

A file holds the transformer or UNet, and often the text encoders and the VAE, too; what it lacks is read from the
directory or repository. What some family here has a table of names for is read by that; the names of all else are
converted by diffusers, as its `from_single_file` does.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.loaders.single_file_model import SINGLE_FILE_LOADABLE_CLASSES
from diffusers.loaders.single_file_utils import (
    CHECKPOINT_KEY_NAMES,
    create_diffusers_clip_model_from_ldm,
    create_diffusers_t5_model_from_checkpoint,
)
from safetensors.torch import load_file
from torch import nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection, T5EncoderModel

from rushes.errors import ModelError, first_line
from rushes_service.models.loading.build_plans import BuildPlan, Plan, build_plans, keys_of
from rushes_service.models.loading.building import build_planned, empty, listed
from rushes_service.models.loading.directories import config_in, settled
from rushes_service.models.loading.errors import loading
from rushes_service.models.loading.files.headers import Header, read_header
from rushes_service.models.loading.files.kinds import is_lora
from rushes_service.models.loading.files.quantisation import check_quantisation, check_unscaled
from rushes_service.models.loading.filling import ON_CPU, Destination
from rushes_service.models.loading.from_repo import ModelSource, Source
from rushes_service.models.loading.hub import download

CLIP = (CLIPTextModel, CLIPTextModelWithProjection)
ONLY_CLIP = ("clip", "open_clip", "open_clip_sdxl_refiner")
ONE_OF_TWO = ("clip_sdxl", "clip_sd3", "open_clip_sdxl", "open_clip_sd3")
"""diffusers' names of the tensors that tell CLIP in a file: of the only encoder, and of one of two of other widths."""

T5 = "text_encoders.t5xxl.transformer.shared.weight"

VAE = ("first_stage_model.", "vae.")
"""What VAEs' names in the file of a whole pipeline begin with."""

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class CheckpointSource(Source):
    """The parts of a pipeline. `held` are those that lie in files, and in which; all else is in `rest`."""

    rest: ModelSource
    held: Mapping[str, Header]

    @property
    def directory(self) -> Path:
        """Where configurations and tokenizers are."""
        return self.rest.directory

    @property
    def variants(self) -> Mapping[str, str]:
        """See `Source.variants`."""
        return self.rest.variants

    def component(self, name: str) -> Path:
        """The directory of a part; raises `ModelError`."""
        return self.rest.component(name)

    def place(self, name: str) -> Path:
        """The file or directory of a part; raises `ModelError`."""
        return self.held[name].path if name in self.held else self.rest.component(name)

    def index(self) -> Mapping[str, Any]:
        """What `model_index.json` says; raises `ModelError`."""
        return self.rest.index()

    def config(self, name: str, kind: Any) -> Mapping[str, Any]:
        """What the `config.json` of a part says; raises `ModelError`."""
        return self.rest.config(name, kind)

    def load(
        self,
        name: str,
        kind: Any,
        dtype: torch.dtype | None = None,
        destination: Destination = ON_CPU,
        **given: Any,
    ) -> Any:
        """A part, made of its file, or of its directory if no file has it.

        Raises:
            ModelError: it is incomplete, of another model, or cannot be read.
            ConfigError: its weights cannot be kept as `destination` says.
        """
        if name in self.held:
            header, directory = self.held[name], self.rest.component(name)
            with loading(header.path):
                if own := build_plan_of(kind):
                    return build_planned(planned(header, own, kind, directory), kind, dtype, destination)
                return settled(made(header, kind, directory, dtype), destination)
        if self.rest.repo is not None:
            download(self.rest.repo, [name], self.rest.variant)  # only its configuration may have been fetched
        return self.rest.load(name, kind, dtype, destination, **given)

    def fingerprint(self, names: Sequence[str]) -> str:
        """Hex digest of the content identity of some parts."""
        rest = self.rest.fingerprint([name for name in names if name not in self.held])
        return "+".join([rest, *(f"{name}={self.held[name].fingerprint}" for name in names if name in self.held)])


def checked_file(path: Path, flag: str) -> Header:
    """The header of a file with weights.

    Raises:
        ModelError: it is not there, no file of weights, a LoRA, or quantised in a way that is not read.
    """
    if not path.is_file():
        raise ModelError(f"{flag} {path}: there is no such file")
    header = read_header(path)
    if is_lora(header):
        raise ModelError(f"{flag} {path} is a LoRA, and no base model")
    check_quantisation(header)
    return header


def parts_held(header: Header, modules: Mapping[str, Any], source: ModelSource) -> list[str]:
    """Which parts of a pipeline beside its transformer or UNet lie in the file of a whole one.

    Args:
        modules: their classes, by name.
        source: has their configurations.

    Raises:
        ModelError: a configuration is not there.
    """
    return [name for name, kind in modules.items() if holds(header, name, kind, source)]


def holds(header: Header, name: str, kind: Any, source: ModelSource) -> bool:
    """True if a file holds the weights of a part; see `parts_held`."""
    found = header.entries
    if issubclass(kind, T5EncoderModel):
        return T5 in found
    if issubclass(kind, CLIP):
        if any(CHECKPOINT_KEY_NAMES[key] in found for key in ONLY_CLIP):
            return True
        shapes = [found[CHECKPOINT_KEY_NAMES[key]].shape for key in ONE_OF_TWO if CHECKPOINT_KEY_NAMES[key] in found]
        if not shapes:
            return False
        config = kind.config_class.from_dict(dict(source.config(name, kind)))
        return config.hidden_size in {shape[-1] for shape in shapes}
    begins = VAE if name == "vae" else (f"{name}.",)
    return (build_plan_of(kind) or converter_of(kind)) is not None and any(key.startswith(begins) for key in found)


def build_plan_of(kind: Any) -> BuildPlan | None:
    """The table of a class that a family here reads from files; None if there is none, and for text encoders.

    These have other names in the file of a whole pipeline.
    """
    return None if issubclass(kind, (T5EncoderModel, *CLIP)) else build_plans().get(kind.__name__)


def planned(header: Header, own: BuildPlan, kind: Any, directory: Path) -> Plan:
    """How a file is read as a class that `directory` has the configuration of; raises `ModelError`."""
    config = {key: value for key, value in config_in(directory).items() if not key.startswith("_")}
    return Plan(header, own, config, f"a {kind.__name__} as {directory} describes it", keys_of(header, own))


def converter_of(kind: Any) -> Any:
    """diffusers' function from a release's names to its own, for a class; None if it has none."""
    known = {base.__name__ for base in kind.__mro__}
    return next(
        (row["checkpoint_mapping_fn"] for name, row in SINGLE_FILE_LOADABLE_CLASSES.items() if name in known), None
    )


def made(header: Header, kind: Any, directory: Path, dtype: torch.dtype | None) -> nn.Module:
    """A part of a file, as diffusers makes it: `directory` has its configuration.

    Raises:
        ModelError: the file lacks weights of it, holds others, or cannot be converted.
    """
    check_unscaled(header, "diffusers' converters leave out: give it without, in bf16 or fp16")
    given = {"config": str(directory), "torch_dtype": dtype, "local_files_only": True}
    tensors = read(header)
    if issubclass(kind, T5EncoderModel):
        model = create_diffusers_t5_model_from_checkpoint(kind, checkpoint=tensors, **given)
    elif issubclass(kind, CLIP):
        model = create_diffusers_clip_model_from_ldm(kind, checkpoint=tensors, **given)
    else:
        model = kind.from_single_file(converted(header, tensors, kind, directory), **given)
    if hasattr(model, "tie_weights"):
        model.tie_weights()
    if missing := [name for name, tensor in model.state_dict().items() if tensor.is_meta]:
        raise incomplete(header, kind, missing)
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = tensor.data.clone()  # no view of the file, which may be written anew
    return model.eval()


def converted(header: Header, tensors: Tensors, kind: Any, directory: Path) -> Tensors:
    """The weights of a part in diffusers' names; raises as `made`."""
    config = kind.load_config(directory)
    with torch.device("meta"):
        wanted = empty(kind, config).state_dict().keys()
    if wanted == tensors.keys():
        return tensors
    convert = converter_of(kind)
    if convert is None:
        raise ModelError(
            f"{header.path}: diffusers reads no single file of a {kind.__name__}; save the model as a directory, and "
            "give that with --rushes_model"
        )
    try:
        found = convert(config=config, checkpoint=tensors)
    except (KeyError, IndexError, RuntimeError, AttributeError, ValueError) as error:
        raise ModelError(
            f"{header.path} is no {kind.__name__} in names that diffusers knows ({first_line(error)}); is it of the "
            f"same model as {directory}?"
        ) from error
    if missing := [name for name in wanted if name not in found]:
        raise incomplete(header, kind, missing)
    unused = kind._keys_to_ignore_on_load_unexpected or ()
    found = {name: found[name] for name in found if not any(re.search(pattern, name) for pattern in unused)}
    if extra := [name for name in found if name not in wanted]:
        raise ModelError(
            f"{header.path} holds {listed(extra)} tensors that a {kind.__name__} as {directory} describes it has no "
            "place for: they are of different models"
        )
    return found


def incomplete(header: Header, kind: Any, missing: Sequence[str]) -> ModelError:
    """What to say of weights that are not in a file."""
    return ModelError(f"{header.path} lacks {listed(missing)} weights of a {kind.__name__}: it is of another model")


def read(header: Header) -> Tensors:
    """All tensors of a file by the names that they have there; of safetensors, views of it."""
    if not header.pickled:
        return {name: tensor for file in header.files for name, tensor in load_file(file).items()}
    content = torch.load(header.path, map_location="cpu", weights_only=True)
    for key in header.nested:
        content = content[key]
    return dict(content)
