"""Eight previews of one checkpoint, 256x256 and one frame: in one batch, over one by one.

On a GPU launching the kernels of so small a sample takes longer than computing them; on a CPU nothing is launched, and
a batch must not cost more. Peers: diffusers' pipeline one by one, and with all eight prompts in one call.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from diffusers import WanPipeline

from batches import Jobs, Shape, Silent
from harness import Report, Round, new_round, parser, publish, ratios, rounds_of, timed
from rushes.wire.jobs import SampleJob
from rushes_service.engine.engine import Engine
from rushes_service.models.wan.tiny import build_tiny_wan

PREVIEWS = 8
USUAL, SMALL = Shape(256, 256, 1, 6), Shape(32, 32, 1, 2)

TOGETHER, APART = "batch of eight", "one by one"
BARE, BARE_TOGETHER = "diffusers, one by one", "diffusers, one call"


def denoised(engine: Engine, jobs: list[SampleJob]) -> None:
    """Denoise all samples, each in its turn while the others wait."""
    for at, job in enumerate(jobs):
        engine.denoise(job, Silent(), lambda at=at: jobs[at + 1 :])


def previews(jobs: Jobs) -> list[SampleJob]:
    """Eight prompts of a new checkpoint."""
    checkpoint = jobs.checkpoint()
    return [jobs.new(checkpoint, seed=seed) for seed in range(PREVIEWS)]


def bare(pipe: WanPipeline, jobs: list[SampleJob], count: int) -> None:
    """The same with diffusers, `count` prompts a call."""
    prompt = jobs[0].prompt
    for _ in range(0, len(jobs), count):
        pipe(
            [prompt.prompt] * count,
            negative_prompt=[""] * count,
            width=prompt.width,
            height=prompt.height,
            num_frames=1,
            num_inference_steps=prompt.sample_steps,
            output_type="latent",
        )


def one_round(engines: dict[str, Engine], pipe: WanPipeline, jobs: Jobs) -> Round:
    """Seconds of everybody in turn."""
    taken = new_round()
    for name, engine in engines.items():
        taken[name].append(timed(denoised, engine, previews(jobs)))
    taken[BARE].append(timed(bare, pipe, previews(jobs), 1))
    taken[BARE_TOGETHER].append(timed(bare, pipe, previews(jobs), PREVIEWS))
    return taken


def main() -> None:
    """Run the benchmark."""
    flags = parser(__doc__.splitlines()[0])
    flags.add_argument("--device", default="cpu", help="cpu, or cuda:0")
    args = flags.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        jobs = Jobs(build_tiny_wan(scratch / "wan"), scratch, SMALL if args.quick else USUAL)
        engines = {
            TOGETHER: Engine(args.device, scratch / "cache", batching="on"),
            APART: Engine(args.device, scratch / "cache", batching="off"),
        }
        pipe = WanPipeline.from_pretrained(jobs.model).to(args.device)
        pipe.set_progress_bar_config(disable=True)
        one_round(engines, pipe, jobs)  # loads, and encodes the prompt
        rounds = [one_round(engines, pipe, jobs) for _ in range(rounds_of(args))]
    report = Report("small_batches", "Eight small previews of one checkpoint, over one by one")
    report.add(TOGETHER, ratios(rounds, TOGETHER, APART), goal=1.0 if args.device == "cpu" else 0.35)
    for contestant in (BARE, BARE_TOGETHER):
        report.add(contestant, ratios(rounds, contestant, APART))
    report.conditions = {"device": args.device, "shape": str(jobs.shape)}
    publish(report, args, packages=("torch", "diffusers"))


if __name__ == "__main__":
    main()
