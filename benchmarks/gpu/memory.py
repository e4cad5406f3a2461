"""Memory that runs out on a real card, memory that grows, and tensors of more numbers than 32 bits count."""

from __future__ import annotations

import gc

import torch

from kit import CUDA, DEVICE, MIB, Kit, Row, apart, free, needs_gpu
from rushes.wire.jobs import SampleJob
from samples import make_engine, make_job, make_lora, sample

PARTS = (0.85, 0.6, 0.4, 0.25)
"""Of the memory that a sample takes without a limit."""


def fallbacks(kit: Kit, family: str, size: int, frames: int) -> Row:
    """A limit of the allocator, lower each time: the sample is made in less, or fails, and the next one is fine."""
    needs_gpu()
    job = make_job(kit, family, width=size, height=size, frames=frames)
    engine = make_engine(kit)
    free()
    torch.cuda.reset_peak_memory_stats()
    wanted = sample(engine, job)[:2]
    peak = torch.cuda.max_memory_reserved()
    del engine  # its model would take a part of what is left
    runs = [limited(kit, job, part, int(part * peak), wanted) for part in PARTS]
    used = any(run.get("out_of_memory") for run in runs)
    ok = used and all(run["fine_afterwards"] and run["labelled"] for run in runs)
    return {"ok": ok, "peak_mib": peak // MIB, "runs": runs}


def limited(kit: Kit, job: SampleJob, part: float, limit: int, wanted: tuple[torch.Tensor, torch.Tensor]) -> Row:
    """One run below a limit, and another one without it."""
    engine = make_engine(kit)
    free()
    total = torch.cuda.get_device_properties(0).total_memory
    row: Row = {"part": part, "labelled": True}
    torch.cuda.set_per_process_memory_fraction(limit / total)
    try:
        found = sample(engine, job)
        told = found[2].facts().get("out_of_memory")
        off = apart(found[0], wanted[0])["max"]
        exact = not any(fact["output"] == "approximate" for fact in (told or {}).values())
        row |= {"out_of_memory": told, "pixels": off, "labelled": off < 0.05 or not exact}
    except Exception as error:  # noqa: BLE001  # what it is goes into the row
        row |= {type(error).__name__: str(error)[:120], "out_of_memory": {}}
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    try:
        row["fine_afterwards"] = apart(sample(engine, job)[1], wanted[1])["mean"] < 0.05
    except Exception as error:  # noqa: BLE001
        row |= {"fine_afterwards": False, "afterwards": f"{type(error).__name__}: {error}"[:120]}
    return row


def flat(kit: Kit, samples: int) -> Row:
    """What a worker holds after each of many samples, with three states of LoRA in turn."""
    family = "wan2.1-t2v"
    engine = make_engine(kit)
    sample(engine, make_job(kit, family))
    loras, held = [None, make_lora(kit, engine, family), make_lora(kit, engine, family, 6)], []
    for number in range(samples):
        sample(engine, make_job(kit, family, loras[number % 3], seed=number))
        gc.collect()
        held.append(torch.cuda.memory_allocated() if CUDA else 0)
    late = held[6:]
    return {"ok": max(late) - min(late) <= MIB, "first": held[0], "last": held[-1], "spread": max(late) - min(late)}


EDGE = 8
"""Columns beside a cut that see it."""


@torch.no_grad()
def beyond_32_bits(kit: Kit) -> Row:
    """The last enlargement of HunyuanVideo's VAE where it has more than 2**32 numbers: 49 frames of 480 x 832.

    The product's layer on the whole picture, beside the same layer on its left and its right edge alone; and, to know,
    what PyTorch's own kernel does.
    """
    from diffusers import AutoencoderKLHunyuanVideo

    from rushes_service.models.hunyuan.decode import configured

    tiny = kit.small or not CUDA
    channels, (frames, height, width, part) = (32, (5, 12, 40, 24)) if tiny else (256, (25, 240, 416, 64))
    dtype = torch.float16 if CUDA else torch.float32
    widths = [channels // 2, channels, 2 * channels, 2 * channels]
    with torch.device(DEVICE):
        vae = AutoencoderKLHunyuanVideo(block_out_channels=widths, norm_num_groups=8 if tiny else 32).to(dtype).eval()
    layers = [block.upsamplers[0] for block in vae.decoder.up_blocks if block.upsamplers]
    layer = next(each for each in layers if each.conv.conv.in_channels == channels)
    features = torch.rand(1, channels, frames, height, width, device=DEVICE, dtype=dtype)
    row: Row = {"numbers": channels * (2 * frames - 1) * 4 * height * width, "cudnn": torch.backends.cudnn.version()}
    for chunk in (None, 32):
        with configured(vae, None, chunk):
            whole = layer(features)
            edges = layer(features[..., :part]), layer(features[..., -part:])
        columns = 2 * part - EDGE
        off = [
            apart(whole[..., :columns], edges[0][..., :columns]),
            apart(whole[..., -columns:], edges[1][..., -columns:]),
        ]
        row["whole" if chunk is None else "in strips"] = max(off, key=lambda each: each["max"])
        del whole, edges
        free()
    row["ok"] = all(row[way]["max"] < 0.02 for way in ("whole", "in strips"))
    if not tiny:
        row["channels that F.interpolate gets wrong"] = wrong_channels(features)
    return row


def wrong_channels(small: torch.Tensor) -> int:
    """How many of a 17th of the channels PyTorch enlarges wrongly."""
    large = torch.nn.functional.interpolate(small, scale_factor=(2, 2, 2), mode="nearest")
    return sum(not torch.equal(large[:, each, ::2, ::2, ::2], small[:, each]) for each in range(0, 256, 15))
