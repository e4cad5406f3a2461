"""Weights kept in float8 are what the reference makes of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import FluxTransformer2DModel, WanTransformer3DModel
from safetensors.torch import load_file
from torch import nn

from golden_support import GOLDEN, Case, distance
from rushes.prompts.files import load_prompts
from rushes_service.lora.targets import renamed
from rushes_service.models.encoders.llama_clip import HunyuanText
from rushes_service.models.encoders.t5_clip import TextEncoders
from rushes_service.models.encoders.umt5 import TextEncoder
from rushes_service.models.flux.kontext import FluxKontext
from rushes_service.models.flux.names import ORIGINAL_NAMES as FLUX_NAMES
from rushes_service.models.framepack.transformer import FramePackTransformer
from rushes_service.models.framepack.video import FramePackModel
from rushes_service.models.loading.from_repo import ModelSource
from rushes_service.models.wan.names import ORIGINAL_NAMES as WAN_NAMES
from rushes_service.models.wan.t2v import Wan
from rushes_service.runtime.float8 import block_linears, stored_in_float8

RECORDED = GOLDEN / "float8"
ENCODERS = GOLDEN / "encoding"
ENCODER_TOLERANCE = 1e-4
"""Of the largest value, as without float8. Measured: 8e-6 and less; float8 itself makes 0.04 and more."""

WAN_EXCLUDED = ("norm", "patch_embedding", "text_embedding", "time_embedding", "time_projection")
WAN_EXCLUDED += ("head", "modulation", "img_emb")

SELECTIONS = {
    "wan": (Wan, WanTransformer3DModel, "wan_i2v", WAN_NAMES, ("blocks",), WAN_EXCLUDED),
    "flux": (
        FluxKontext,
        FluxTransformer2DModel,
        "flux_kontext",
        FLUX_NAMES,
        ("single_blocks", "double_blocks"),
        ("norm", "mod"),
    ),
    "framepack": (
        FramePackModel,
        FramePackTransformer,
        "framepack_i2v",
        (),
        ("transformer_blocks", "single_transformer_blocks"),
        ("norm",),
    ),
}
"""The words in the reference's names by which it chooses layers, and those by which it leaves some out."""


@pytest.mark.parametrize("kind", ["blocks", "rows", "float32"])
def test_scaled_weights_are_stored_and_computed_as_the_reference_does_to_the_bit(kind):
    """Blocks of 64 columns; rows of 40, which are no blocks; both in bfloat16; blocks in float32."""
    tensors = load_file(RECORDED / "scaled.safetensors")
    recorded = {name.partition(".")[2]: tensor for name, tensor in tensors.items() if name.startswith(kind)}
    rows, columns = recorded["weight"].shape
    layer: Any = nn.Linear(columns, rows, bias=False, dtype=recorded["weight"].dtype)
    layer.weight.data = recorded["weight"]
    stored_in_float8(layer, scaled=True)
    assert torch.equal(layer.weight.view(torch.uint8), recorded["stored"].view(torch.uint8))
    assert torch.equal(layer.scales.flatten(), recorded["scales"].flatten())
    assert torch.equal(layer.expanded(layer.scales.dtype), recorded["dequantized"])
    torch.testing.assert_close(layer(recorded["input"]), recorded["output"])


@pytest.mark.parametrize("family", SELECTIONS)
def test_scales_are_for_the_layers_that_the_reference_chooses(family):
    base, kind, case, rules, targets, excluded = SELECTIONS[family]
    with torch.device("meta"):
        model = kind(**Case(case).arguments("transformer"))
    chosen = {name for name, _ in block_linears(model, base.blocks)}
    wanted = {name for name in linears(model) if is_target(renamed(name, rules), targets, excluded)}
    assert chosen == wanted
    assert len(chosen) > 10


@pytest.mark.parametrize(("family", "kind"), [("flux", TextEncoders), ("hunyuan", HunyuanText), ("wan", TextEncoder)])
def test_text_encoders_in_float8_encode_as_the_reference_does(family, kind):
    wanted = load_file(RECORDED / "text_encoders.safetensors")[family].flatten(0, -2)
    encoder = kind(ModelSource(ENCODERS / family, None), torch.device("cpu"), torch.float32, float8=True)
    found = encoder.encode(load_prompts(ENCODERS / "prompts.txt")[0].prompt)
    embeds = found["embeds" if family == "wan" else "prompt_embeds"][0, : len(wanted)]
    assert distance(embeds, wanted) <= ENCODER_TOLERANCE * float(wanted.abs().max())


def linears(model: nn.Module) -> set[str]:
    return {name for name, module in model.named_modules() if isinstance(module, nn.Linear)}


def is_target(name: str, targets: tuple[str, ...], excluded: tuple[str, ...]) -> bool:
    """The reference's rule for a name of its own."""
    return any(part in name for part in targets) and not any(part in name for part in excluded)
