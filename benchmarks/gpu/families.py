"""Every family on tiny weights: beside the CPU, with LoRAs that come and go, offloaded and in float8."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

import references
from kit import CUDA, Kit, Row, apart
from samples import base_of, make_engine, make_job, make_lora, noise_of_the_cpu, same_weights, sample, weights_of

HALF_ON_A_GPU = ("hunyuan", "skyreels", "framepack")
"""Families whose VAE and text encoders are in float16 on a GPU, and in float32 on the CPU."""


@contextlib.contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Inside, convolutions and products of float32 may be rounded to TF32, or not."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def beside_the_cpu(kit: Kit, family: str, precision: str) -> Row:
    """The GPU's pixels and latents beside those of the CPU in float32, with the CPU's noise.

    Means may be off by 2e-3 in float32 (2e-2 where parts are in float16), in bfloat16 by three times what bfloat16
    costs on the CPU besides.
    """
    pixels, latents = references.read(kit, family, "float32")
    rounded = precision != "float32"
    with noise_of_the_cpu(), tf32(rounded):
        found = sample(make_engine(kit, dtype=precision, tf32=rounded), make_job(kit, family))
    allowed = 2e-2 if family.startswith(HALF_ON_A_GPU) else 2e-3
    limits, costs = [allowed, allowed], None
    if precision == "bfloat16":
        rough = references.read(kit, family, "bfloat16")
        costs = [apart(a, b)["mean"] for a, b in zip(rough, (pixels, latents), strict=True)]
        limits = [round(allowed + 3 * cost, 6) for cost in costs]
    off = [apart(found[0], pixels), apart(found[1], latents)]
    ok = all(each["mean"] <= limit for each, limit in zip(off, limits, strict=True))
    return {"ok": ok, "pixels": off[0], "latents": off[1], "allowed_means": limits, "bfloat16_costs_on_the_cpu": costs}


def loras(kit: Kit, family: str) -> Row:
    """Two LoRAs and two strengths: each acts, each acts the same again, and the base comes back bit for bit."""
    engine = make_engine(kit)
    base = sample(engine, make_job(kit, family))
    before = weights_of(engine)
    first, second = make_lora(kit, engine, family), make_lora(kit, engine, family, 6)
    one = sample(engine, make_job(kit, family, first))
    sample(engine, make_job(kit, family, second))
    half = sample(engine, make_job(kit, family, first, lora_multiplier=0.5))
    again = sample(engine, make_job(kit, family, first))
    back = sample(engine, make_job(kit, family))
    exact = same_weights(before, weights_of(engine)) and torch.equal(base[1], back[1])
    repeats = torch.equal(one[1], again[1])
    acts = not torch.equal(one[1], base[1]) and not torch.equal(half[1], one[1])
    merge = one[2].facts()["lora"]["merge"]
    return {"ok": exact and repeats and acts, "exact": exact, "repeats": repeats, "acts": acts, "merge": merge}


def offloaded(kit: Kit, family: str) -> Row:
    """Block by block from host memory: the base is the same; a LoRA may be off by the rounding of another processor."""
    plain, other = make_engine(kit), make_engine(kit, offload=True)
    base = sample(plain, make_job(kit, family))
    lora = make_lora(kit, plain, family)
    with_lora = sample(plain, make_job(kit, family, lora))
    merged = {name: value.cpu() for name, value in weights_of(plain).items()}
    first = sample(other, make_job(kit, family))
    second = sample(other, make_job(kit, family, lora))
    weights = {name: value.cpu() for name, value in weights_of(other).items()}
    back = sample(other, make_job(kit, family))
    different = sum(int((weights[name] != merged[name]).sum()) for name in merged)
    rows = {
        "base_same": torch.equal(first[1], base[1]),
        "base_back": torch.equal(back[1], first[1]),
        "lora": apart(second[1], with_lora[1]),
        "merged_weights_that_differ": different,
        "weights": sum(value.numel() for value in merged.values()),
    }
    moved = apart(with_lora[1], base[1])["mean"]
    return {"ok": rows["base_same"] and rows["base_back"] and rows["lora"]["mean"] < 0.1 * moved, **rows}


def float8(kit: Kit, family: str) -> Row:
    """Weights in float8, with scales and without: LoRAs act and go."""
    engine = make_engine(kit)
    base = sample(engine, make_job(kit, family))
    lora = make_lora(kit, engine, family)
    rows: dict[str, Any] = {}
    for flag in ("fp8_base", "fp8_scaled"):
        model = make_job(kit, family).model.model_copy(update={flag: True})
        other = make_engine(kit)
        first = sample(other, make_job(kit, family, model=model))
        acted = sample(other, make_job(kit, family, lora, model=model))
        back = sample(other, make_job(kit, family, model=model))
        rows[flag] = {
            "from_bfloat16": apart(first[1], base[1])["mean"],
            "lora": apart(acted[1], first[1])["mean"],
            "back": torch.equal(back[1], first[1]),
        }
    return {"ok": all(row["back"] and row["lora"] > 0 for row in rows.values()), **rows}


def pinned_copies(kit: Kit, family: str) -> Row:
    """Pristine copies in host memory, as on a card that is nearly full: the same as on the device."""
    engine, other = make_engine(kit), make_engine(kit)
    base = sample(engine, make_job(kit, family))
    lora = make_lora(kit, engine, family)
    wanted = sample(engine, make_job(kit, family, lora))
    sample(other, make_job(kit, family))
    ask, reserved = torch.cuda.mem_get_info, torch.cuda.memory_reserved
    try:
        if CUDA:
            torch.cuda.mem_get_info = lambda *_: (0, 1)
            torch.cuda.memory_reserved = lambda *_: 0
        found = sample(other, make_job(kit, family, lora))
    finally:
        torch.cuda.mem_get_info, torch.cuda.memory_reserved = ask, reserved
    back = sample(other, make_job(kit, family))
    same = torch.equal(found[1], wanted[1]) and torch.equal(back[1], base[1])
    return {"ok": same, "merge": found[2].facts()["lora"]["merge"], "vae": str(base_of(other).vae.device)}
