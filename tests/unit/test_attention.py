"""What computes attention: the choice, what it refuses, and HunyuanVideo's text without its padding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from family_support import tiny_model_spec, tiny_options
from golden_support import sample
from rushes.errors import ConfigError
from rushes.families.table import ARCHITECTURES
from rushes.wire.jobs import Prompt
from rushes_service.engine.engine import Engine
from rushes_service.engine.kernels.attention import BACKENDS, Attention
from rushes_service.models.hunyuan.attention import padding_is_behind, without_padding

CPU, CARD = torch.device("cpu"), torch.device("cuda:0")


def test_without_a_gpu_attention_is_pytorchs_own() -> None:
    chosen = Attention(CPU).choose(torch.float32, masks=True)
    assert (chosen.backend.name, chosen.warning) == ("native", None)


@pytest.mark.parametrize(
    ("device", "name", "why"),
    [
        (CPU, "fast", "no such backend; write auto, native, cudnn, flash, flash3"),
        (CPU, "cudnn", "for GPUs"),
        (CARD, "flash3", "not installed"),
        (CARD, "sage", "not installed"),
    ],
)
def test_a_backend_that_cannot_be_used_is_an_error_at_the_start(device: torch.device, name: str, why: str) -> None:
    with pytest.raises(ConfigError, match=f"--attention {name}: .*{why}"):
        Attention(device, name)


def test_a_backend_that_does_not_fit_a_model_is_not_used_and_that_is_said() -> None:
    asked = Attention(CARD, "cudnn")
    assert asked.choose(torch.float32, masks=True).backend.name == "cudnn"
    asked._asked = next(backend for name, backend in BACKENDS.items() if name == "flash3")
    for dtype, masks, why in ((torch.bfloat16, True, "masks"), (torch.float32, False, "16 bits")):
        chosen = asked.choose(dtype, masks=masks)
        assert chosen.backend.name == "native"
        assert why in str(chosen.warning)
    assert asked.choose(torch.bfloat16, masks=False).backend.name == "flash3"


class Masks(torch.overrides.TorchFunctionMode):
    """Counts calls of attention, by whether they were given a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: dict[bool, int] = {True: 0, False: 0}

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is functional.scaled_dot_product_attention:
            self.calls[(kwargs or {}).get("attn_mask") is not None] += 1
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("family", ["hunyuan-video", "hunyuan-video-i2v"])
def test_the_padding_of_a_text_is_cut_and_changes_nothing_but_rounding(family: str, tmp_path: Path) -> None:
    engine = Engine("cpu", tmp_path / "cache")
    model = tiny_model_spec(family, tmp_path)
    prompt = Prompt(prompt="a red ball", **tiny_options(ARCHITECTURES[family], tmp_path, 5))
    sample(engine, model, prompt)  # encoders have attention, too
    with Masks() as cut:
        found = sample(engine, model, prompt)
    base = engine.loaded.base
    blocks = len(base.transformer.transformer_blocks) + len(base.transformer.single_transformer_blocks)
    assert cut.calls[False] >= blocks * found.parameters.sample_steps
    base.uses_masks = lambda conditioning: True
    with Masks() as masked:
        wanted = sample(engine, model, prompt)
    assert masked.calls[True] - cut.calls[True] == cut.calls[False] - masked.calls[False] > 0
    assert (found.latents - wanted.latents).abs().max() < 1e-5
    assert found.facts()["attention"] == "native"


def test_only_padding_behind_a_single_text_is_cut() -> None:
    embeds = torch.arange(8.0).reshape(1, 4, 2)
    text = {"prompt_embeds": embeds, "prompt_attention_mask": torch.tensor([[1, 1, 1, 0]])}
    more = {"negative_prompt_embeds": embeds, "negative_prompt_attention_mask": torch.tensor([[1, 0, 0, 0]])}
    cut = without_padding({**text, **more, "pooled_prompt_embeds": embeds})
    assert {name: tensor.shape[1] for name, tensor in cut.items()} == {
        "prompt_embeds": 3,
        "prompt_attention_mask": 3,
        "negative_prompt_embeds": 1,
        "negative_prompt_attention_mask": 1,
        "pooled_prompt_embeds": 4,
    }
    assert padding_is_behind({**text, **more})
    assert not padding_is_behind({**text, "prompt_attention_mask": torch.tensor([[1, 0, 1, 0]])})
    assert not padding_is_behind({name: torch.cat([tensor, tensor]) for name, tensor in text.items()})
