"""Decoding a clip and writing it as an mp4, against decoding it alone; and when the first frame is there.

The writer is the worker's own: ffmpeg, receipt, rename. The VAE is the tiny one: the quicker the decoder, the more
encoding weighs beside it, so that the real one can only do better.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from diffusers.utils import export_to_video

from harness import Report, Round, medians, new_round, parser, publish, ratios, rounds_of, timed
from rushes_service.media.writing import write_media
from rushes_service.models.wan.decode import stream_wan
from rushes_service.runtime.pixels import to_uint8
from wan_vae import build_vae, random_latents

FRAMES, SIZE = 81, (128, 208)
"""Frames; height and width in pixels."""

ALONE, SUBJECT = "decode alone", "decode + encode"
FIRST, FULL, EXPORT = "first frame", "full decode", "full decode + export_to_video"


def main() -> None:
    """Run the benchmark."""
    flags = parser(__doc__.splitlines()[0])
    flags.add_argument("--threads", type=int, default=1, help="of the decoder; the encoder takes what is left")
    flags.add_argument("--vae", choices=("tiny", "sixth", "real"), default="tiny")
    args = flags.parse_args()
    torch.set_num_threads(args.threads)
    name, frames, size = ("tiny", 17, (64, 96)) if args.quick else (args.vae, FRAMES, SIZE)
    vae, latents = build_vae(name), random_latents(frames, *size)
    with tempfile.TemporaryDirectory() as scratch:
        written(vae, latents[:, :, :2], 5, Path(scratch))
        rounds = [one_round(vae, latents, frames, Path(scratch)) for _ in range(rounds_of(args))]
    report = reported(rounds, frames)
    report.conditions = {"vae": name, "frames": frames, "size": f"{size[0]}x{size[1]}", "threads": args.threads}
    publish(report, args, packages=("torch", "diffusers", "imageio-ffmpeg"))


def one_round(vae: AutoencoderKLWan, latents: torch.Tensor, frames: int, scratch: Path) -> Round:
    """Every way once."""
    taken = new_round()
    taken[ALONE].append(timed(lambda: [None for _ in frames_of(vae, latents)]))
    taken[SUBJECT].append(timed(written, vae, latents, frames, scratch))
    taken[FIRST].append(first_frame(vae, latents, frames, scratch))
    full, exported = decoded_then_exported(vae, latents, scratch)
    taken[FULL].append(full)
    taken[EXPORT].append(exported)
    return taken


def frames_of(vae: AutoencoderKLWan, latents: torch.Tensor) -> Iterator[np.ndarray]:
    """Frames as the engine makes them."""
    for pixels in stream_wan(vae, latents):
        yield from to_uint8((pixels[0] / 2 + 0.5).clamp(0, 1))


def written(vae: AutoencoderKLWan, latents: torch.Tensor, frames: int, scratch: Path) -> None:
    """The clip on disk with its receipt."""
    write(frames_of(vae, latents), frames, scratch)


def write(clip: Iterator[np.ndarray], frames: int, scratch: Path) -> None:
    """`clip` through the worker's writer."""
    target = scratch / "clip.mp4"
    write_media(clip, target, job_id="bench", frame_count=frames, fps=16, receipt=dict, guard=lambda: None)


def first_frame(vae: AutoencoderKLWan, latents: torch.Tensor, frames: int, scratch: Path) -> float:
    """Seconds until the writer takes the first frame."""
    began = time.perf_counter()
    moments: list[float] = []

    def watched() -> Iterator[np.ndarray]:
        for frame in frames_of(vae, latents):
            moments.append(time.perf_counter() - began)
            yield frame

    write(watched(), frames, scratch)
    return moments[0]


@torch.no_grad()
def decoded_then_exported(vae: AutoencoderKLWan, latents: torch.Tensor, scratch: Path) -> tuple[float, float]:
    """diffusers' way: seconds of the full decode, and until the file is there."""
    began = time.perf_counter()
    pixels = vae.decode(latents).sample
    decoded = time.perf_counter() - began
    frames = (pixels[0] / 2 + 0.5).clamp(0, 1).permute(1, 2, 3, 0).numpy()
    export_to_video(list(frames), str(scratch / "export.mp4"), fps=16)
    return decoded, time.perf_counter() - began


def reported(rounds: list[Round], frames: int) -> Report:
    """The table."""
    report = Report("decode_encode", f"Decoding and writing {frames} frames / decoding them")
    report.add("decode + encode / decode", ratios(rounds, SUBJECT, ALONE), goal=1.05)
    report.add("time to first frame / full decode", ratios(rounds, FIRST, FULL), goal=1 / 15)
    report.add("decode + export_to_video / decode", ratios(rounds, EXPORT, FULL))
    report.add("streamed decode / full decode", ratios(rounds, ALONE, FULL))
    for name in (ALONE, SUBJECT, FIRST, FULL, EXPORT):
        report.add(name, medians(rounds, name), unit="s")
    return report


if __name__ == "__main__":
    main()
