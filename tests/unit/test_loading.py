"""How weights get from files into models: the numbers that diffusers reads, in memory for one copy of them."""

from __future__ import annotations

import gc
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLFlux2, WanTransformer3DModel
from safetensors.torch import save_file
from transformers import UMT5EncoderModel

from rushes.errors import ModelError
from rushes_service.models.flux2 import tiny as flux2
from rushes_service.models.loading.building import build
from rushes_service.models.loading.directories import loaded
from rushes_service.models.loading.files.headers import read_header
from rushes_service.models.loading.files.naming import Slot
from rushes_service.models.loading.files.transfer import Transfer
from rushes_service.models.loading.files.weights import opened
from rushes_service.models.loading.filling import Destination
from rushes_service.models.loading.storing import Float8, ScaledFloat8, WeightStorage

CPU = torch.device("cpu")
GOLDEN = Path(__file__).parents[1] / "golden"
LAYERS = 6


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Wan transformer in float32, in shards."""
    path = tmp_path_factory.mktemp("wan")
    torch.manual_seed(0)
    sizes = {"num_attention_heads": 4, "attention_head_dim": 24, "ffn_dim": 256, "num_layers": LAYERS}
    model = WanTransformer3DModel(**sizes, text_dim=32, freq_dim=32, rope_max_seq_len=64)
    model.save_pretrained(path, max_shard_size="500KB")
    assert len(list(path.glob("*-of-*.safetensors"))) > 2
    return path


def same(found: torch.nn.Module, wanted: torch.nn.Module) -> bool:
    one, other = found.state_dict(), wanted.state_dict()
    return one.keys() == other.keys() and all(
        one[name].dtype is other[name].dtype and torch.equal(one[name].float(), other[name].float()) for name in other
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_directory_gives_what_diffusers_reads_from_it(directory: Path, dtype: torch.dtype) -> None:
    found = loaded(directory, WanTransformer3DModel, dtype)
    assert same(found, WanTransformer3DModel.from_pretrained(directory, torch_dtype=dtype))
    assert found.config == WanTransformer3DModel.from_pretrained(str(directory)).config
    assert not found.training


def test_numbers_that_are_no_parameters_are_read_as_they_are(tmp_path: Path) -> None:
    """FLUX.2's VAE has statistics, and a count of them."""
    flux2.vae().save_pretrained(tmp_path)
    found = loaded(tmp_path, AutoencoderKLFlux2, torch.bfloat16)
    assert same(found, AutoencoderKLFlux2.from_pretrained(tmp_path, torch_dtype=torch.bfloat16))
    assert found.bn.num_batches_tracked.dtype is torch.int64


@pytest.mark.parametrize("storage", [Float8(torch.bfloat16), ScaledFloat8(("blocks",), CPU)])
def test_weights_become_float8_on_their_way_as_they_would_afterwards(directory: Path, storage: WeightStorage) -> None:
    found = loaded(directory, WanTransformer3DModel, torch.bfloat16, Destination(CPU, storage))
    wanted = loaded(directory, WanTransformer3DModel, torch.bfloat16)
    storage.prepare(wanted)
    storage.finish(wanted)
    assert same(found, wanted)
    assert any(weight.dtype is torch.float8_e4m3fn for weight in found.state_dict().values())


class Counting(WeightStorage):
    """Looks, at every few weights that arrive, at how many bytes of tensors there are in host memory."""

    dtype = None

    def __init__(self) -> None:
        self.before = self.peak = live_bytes()
        self._arrived = 0

    def prepare(self, model: Any) -> None:
        """Nothing changes."""

    def arrived(self, model: torch.nn.Module, name: str) -> None:
        self._arrived += 1
        if self._arrived % 10 == 0:
            self.peak = max(self.peak, live_bytes())


def live_bytes() -> int:
    """Bytes of all tensors on the CPU that Python knows."""
    found = {}
    for thing in gc.get_objects():
        if issubclass(type(thing), torch.Tensor) and thing.device.type == "cpu":
            found[thing.untyped_storage().data_ptr()] = thing.untyped_storage().nbytes()
    return sum(found.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_while_a_model_is_read_there_is_one_copy_of_it(directory: Path, dtype: torch.dtype) -> None:
    storage = Counting()
    model = loaded(directory, WanTransformer3DModel, dtype, Destination(CPU, storage))
    size = sum(weight.nbytes for weight in model.state_dict().values())
    assert 0.5 * size < storage.peak - storage.before <= 1.1 * size


def test_a_file_that_is_rewritten_leaves_a_loaded_model_alone(directory: Path, tmp_path: Path) -> None:
    """A mapping would show the new numbers, or end the process."""
    path = tmp_path / "model.safetensors"
    model = WanTransformer3DModel.from_pretrained(str(directory))
    save_file(model.state_dict(), path)
    path.with_suffix(".config.json").write_text(json.dumps({**model.config, "_class_name": "WanTransformer3DModel"}))
    found = build(read_header(path), WanTransformer3DModel)
    with path.open("r+b") as file:
        file.truncate(64)
    assert same(found, model)


def test_a_file_that_was_replaced_meanwhile_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"a": torch.zeros(4), "b": torch.ones(4)}, path)
    header = read_header(path)
    save_file({"b": torch.zeros(4), "c": torch.ones(4)}, path)
    with pytest.raises(ModelError, match=r"model\.safetensors was replaced"), opened(header):
        pass


@pytest.mark.parametrize("stored", [torch.float32, torch.float16, torch.float8_e4m3fn])
@pytest.mark.parametrize("slot", [Slot("w"), Slot("w", rows=(3, 7)), Slot("w", swapped=True)])
def test_chunks_do_not_show(tmp_path: Path, stored: torch.dtype, slot: Slot) -> None:
    path = tmp_path / "model.safetensors"
    numbers = torch.randn(10, 7, generator=torch.Generator().manual_seed(0)).to(stored)
    save_file({"first": torch.zeros(3), "w": numbers, "last": torch.zeros(5)}, path)
    header = read_header(path)
    with opened(header) as reader:
        shape = reader.shape(slot, "w")
        for kept in (torch.float32, torch.bfloat16):
            found = reader.read(slot, "w", shape, kept, kept, Transfer(CPU, chunk=24))
            assert torch.equal(found, slot.cut(numbers.float()).to(kept))
            assert found.is_contiguous()


def test_what_two_names_share_is_one_parameter() -> None:
    """Of two, moving the model would make two copies."""
    found = build(read_header(GOLDEN / "original_encoders" / "umt5.pth"), UMT5EncoderModel)
    assert found.shared.weight is found.encoder.embed_tokens.weight
