"""Memory that decoding a clip takes, by its length: streamed, and as others do it.

Each case runs in a child of its own, forked after the imports, which trims its heap, notes its size, resets the
kernel's high-water mark, decodes, and reads the mark. Large blocks go back to the system as they are freed, so that the
mark shows what is live.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import tempfile
from collections.abc import Callable
from itertools import product
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan
from diffusers.utils import export_to_video

from harness import Report, Round, new_round, parser, publish, rounds_of
from rushes_service.models.vae.tiles import TilePlan
from rushes_service.models.wan.decode import stream_wan
from rushes_service.runtime.pixels import to_uint8
from wan_vae import build_vae, random_latents

LENGTHS = (17, 33, 65, 97)
"""Frames."""
SIZE = (128, 208)
"""Height and width in pixels."""

REAL_LENGTHS, REAL_SIZE = (17, 65), (64, 96)
"""Wan2.1's own VAE takes seconds per frame on a CPU."""

TILES = TilePlan(128, 96)
M_MMAP_THRESHOLD = -3
MMAP_BYTES = 1 << 16
MIB = 1 << 20

Decode = Callable[[AutoencoderKLWan, torch.Tensor], None]


def main() -> None:
    """Run the benchmark."""
    flags = parser(__doc__.splitlines()[0])
    flags.add_argument("--real", action="store_true", help="Wan2.1's own VAE too, once (minutes)")
    flags.add_argument("--size", type=int, nargs=2, default=SIZE, metavar=("HEIGHT", "WIDTH"), help="in pixels")
    args = flags.parse_args()
    torch.set_num_threads(1)  # before the first fork: a child has none of its parent's threads
    lengths, size = ((17, 33), (64, 96)) if args.quick else (LENGTHS, tuple(args.size))
    # The others' memory varies by less than a percent and takes long to measure: once is enough.
    rounds = [one_round("tiny", lengths, size)]
    rounds += [one_round("tiny", lengths, size, OURS) for _ in range(rounds_of(args) - 1)]
    report = Report("decode_memory", f"Memory of decoding at {size[0]}x{size[1]}, above the loaded model")
    add_rows(report, rounds, lengths, "")
    report.add("streamed frames that differ from the full decode", [in_child(differing, "tiny", size)], "", goal=0)
    if args.real:
        real = [one_round("real", REAL_LENGTHS, REAL_SIZE, OURS)]
        add_rows(report, real, REAL_LENGTHS, f", Wan2.1's VAE at {REAL_SIZE[0]}x{REAL_SIZE[1]}")
    report.conditions = {"mmap threshold": f"{MMAP_BYTES} bytes", "threads": 1}
    publish(report, args, packages=("torch", "diffusers"))


def streamed(vae: AutoencoderKLWan, latents: torch.Tensor) -> None:
    """Ours: frames are dropped as they come, as the writer does once ffmpeg has them."""
    for pixels in stream_wan(vae, latents):
        for _ in to_uint8((pixels[0] / 2 + 0.5).clamp(0, 1)):
            pass


@torch.no_grad()
def exported(vae: AutoencoderKLWan, latents: torch.Tensor) -> None:
    """diffusers: the whole clip, then `export_to_video`."""
    export(vae.decode(latents).sample)


def tiled(vae: AutoencoderKLWan, latents: torch.Tensor) -> None:
    """diffusers with spatial tiling, which is approximate, then `export_to_video`."""
    vae.enable_tiling(TILES.size, TILES.size, TILES.stride, TILES.stride)
    try:
        exported(vae, latents)
    finally:
        vae.use_tiling = False


def export(pixels: torch.Tensor) -> None:
    """What a diffusers pipeline does with decoded pixels [1, 3, F, H, W] and its caller with the frames."""
    frames = (pixels[0] / 2 + 0.5).clamp(0, 1).permute(1, 2, 3, 0).float().numpy()
    with tempfile.TemporaryDirectory() as scratch:
        export_to_video(list(frames), str(Path(scratch) / "clip.mp4"), fps=16)


OURS = "streamed"
METHODS: dict[str, Decode] = {
    "streamed": streamed,
    "decode + export_to_video": exported,
    "tiled + export_to_video": tiled,
}


def one_round(vae: str, lengths: tuple[int, ...], size: tuple[int, int], only: str | None = None) -> Round:
    """MiB of each method at each length."""
    taken = new_round()
    for length, method in product(lengths, METHODS):
        if only in (None, method):
            taken[f"{method} {length}"].append(in_child(peak, vae, method, length, size))
    return taken


def in_child(work: Callable[..., float], *arguments: object) -> float:
    """What `work` returns in a forked process."""
    with multiprocessing.get_context("fork").Pool(1) as pool:
        return pool.apply(work, arguments)


def peak(vae_name: str, method: str, length: int, size: tuple[int, int]) -> float:
    """MiB that decoding takes on top of model and latents, at the most."""
    libc = ctypes.CDLL(None)
    libc.mallopt(M_MMAP_THRESHOLD, MMAP_BYTES)
    vae, latents = build_vae(vae_name), random_latents(length, *size)
    METHODS[method](vae, random_latents(5, *size))  # what is set up once, at the first use
    libc.malloc_trim(0)
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    METHODS[method](vae, latents)
    return (memory("VmHWM") - before) / MIB


def memory(field: str) -> int:
    """A size in /proc/self/status, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


@torch.no_grad()
def differing(vae_name: str, size: tuple[int, int]) -> float:
    """How many of 17 streamed frames are not bitwise those of the full decode."""
    vae, latents = build_vae(vae_name), random_latents(17, *size)
    full = vae.decode(latents).sample
    clip = torch.cat(list(stream_wan(vae, latents)), dim=2)
    return float(sum(not torch.equal(clip[:, :, frame], full[:, :, frame]) for frame in range(full.shape[2])))


def add_rows(report: Report, rounds: list[Round], lengths: tuple[int, ...], note: str) -> None:
    """Growth per frame, peak at about four times the frames, and the peaks themselves."""
    first, last = lengths[0], lengths[-1]
    long = max(length for length in lengths if length <= 4 * first)
    for method in METHODS:
        taken_by = [taken for taken in rounds if f"{method} {first}" in taken]
        if not taken_by:
            continue
        ours = method == OURS
        spans = [(taken[f"{method} {last}"][0] - taken[f"{method} {first}"][0]) / (last - first) for taken in taken_by]
        stretch = [taken[f"{method} {long}"][0] / taken[f"{method} {first}"][0] for taken in taken_by]
        report.add(f"{method}: growth per frame{note}", spans, "MiB", goal=0.1 if ours else None)
        report.add(f"{method}: peak, {long} / {first} frames{note}", stretch, goal=1.05 if ours else None)
        for length in lengths:
            report.add(f"{method}: peak, {length} frames{note}", [t[f"{method} {length}"][0] for t in taken_by], "MiB")


if __name__ == "__main__":
    main()
