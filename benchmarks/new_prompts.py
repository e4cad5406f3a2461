"""New prompts: eight at once to a worker that keeps no encoder, and one to a warm worker that keeps its own.

Divided by what cannot be spared: one load of the encoder (for the eight), one encode for each prompt, and denoising and
decoding of each sample, by its receipt. Load and encodes are measured in this process, by themselves. The encoder is a
UMT5 with wide layers (50 MB), between a tiny transformer and VAE. Peers: a warm loop of diffusers that encodes all
prompts first, and a process for each sample (one is measured, and counted eight times).
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from diffusers import WanPipeline
from diffusers.utils import export_to_video
from transformers import UMT5Config, UMT5EncoderModel

from batches import QUICK, Jobs, Shape, finished, process_per_job, seconds_of, worker
from harness import Report, Round, new_round, parser, publish, ratios, rounds_of, timed
from rushes import Client
from rushes.wire.jobs import SampleJob
from rushes_service.models.encoders.umt5 import TextEncoder
from rushes_service.models.loading.from_repo import ModelSource
from rushes_service.models.wan.tiny import build_tiny_wan
from rushes_service.processes.embedded_redis import EmbeddedRedis

PROMPTS = 8
USUAL = Shape(128, 96, 17, 30)
LAYERS, WIDTH = 8, 16384
"""Of the encoder: about as quick to read as to use."""

EIGHT, EIGHT_WORK = "eight new prompts", "1 load + 8 encodes + 8 x (denoise + decode)"
ONE, ONE_WORK = "new prompt, warm worker", "encode + denoise + decode"
LOOP, PROCESSES = "diffusers loop that encodes first", "8 fresh processes"


class Prompts:
    """Samples of one new checkpoint after the other, each with a prompt that was never encoded."""

    def __init__(self, jobs: Jobs) -> None:
        self.jobs = jobs
        self._count = 0

    def new(self, count: int) -> list[SampleJob]:
        """Samples of a new checkpoint."""
        checkpoint = self.jobs.checkpoint()
        made = []
        for index in range(count):
            self._count += 1
            job = self.jobs.new(checkpoint, seed=index)
            text = f"a red ball, number {self._count}"
            made.append(job.model_copy(update={"prompt": job.prompt.model_copy(update={"prompt": text})}))
        return made


def with_wide_encoder(model: Path, layers: int, width: int) -> Path:
    """The tiny model with an encoder of another size in place of its own."""
    config = UMT5Config.from_pretrained(model / "text_encoder")
    config.num_layers, config.d_ff = layers, width
    UMT5EncoderModel(config).save_pretrained(model / "text_encoder")
    return model


def waited(client: Client, jobs: list[SampleJob]) -> tuple[float, float]:
    """Seconds from submitting until the last one has ended; seconds of denoising and decoding in them."""
    began = time.time()
    client.submit(jobs)
    records = finished(client, jobs)
    seconds = [seconds_of(record) for record in records]
    return max(record.finished_at or 0.0 for record in records) - began, sum(
        each["denoise"] + each["decode"] for each in seconds
    )


def encoding(model: Path, texts: list[str]) -> tuple[float, float]:
    """Seconds of a load of the encoder, and of encoding `texts`."""
    with TextEncoder(ModelSource(model, None), torch.device("cpu"), torch.float32) as encoder:
        loading = timed(lambda: encoder.loaded)
        return loading, sum(timed(encoder.encode, text) for text in texts)


def loop(pipe: WanPipeline, model: Path, jobs: list[SampleJob], target: Path) -> None:
    """What a careful script does with a model that is loaded: all prompts first, then one sample after the other."""
    encoder = UMT5EncoderModel.from_pretrained(model / "text_encoder", dtype=torch.float32)
    pipe.register_modules(text_encoder=encoder)
    with torch.no_grad():
        embeds = [pipe.encode_prompt(job.prompt.prompt, "", max_sequence_length=512) for job in jobs]
    pipe.register_modules(text_encoder=None)
    for job, (positive, negative) in zip(jobs, embeds, strict=True):
        prompt = job.prompt
        frames = pipe(
            prompt_embeds=positive,
            negative_prompt_embeds=negative,
            width=prompt.width,
            height=prompt.height,
            num_frames=prompt.frame_count,
            num_inference_steps=prompt.sample_steps,
        ).frames[0]
        export_to_video(list(frames), str(target), fps=16)


@contextlib.contextmanager
def served(scratch: Path, encoder_gib: str) -> Iterator[Client]:
    """A queue with a worker of its own, that keeps so much of encoders."""
    with (
        EmbeddedRedis(scratch / "redis", port=0) as redis,
        worker(redis.url, scratch / "cache", "--encoder_memory", encoder_gib),
    ):
        yield Client(redis.url)


def one_round(
    scarce: Client, warm: Client, pipe: WanPipeline, prompts: Prompts, scratch: Path, *, processes: bool
) -> Round:
    """Seconds of everybody in turn; without `processes` nobody starts a new one."""
    taken, model = new_round(), prompts.jobs.model
    jobs = prompts.new(PROMPTS)
    seconds, work = waited(scarce, jobs)
    loading, encodes = encoding(model, [job.prompt.prompt for job in jobs])
    taken[EIGHT].append(seconds)
    taken[EIGHT_WORK].append(loading + encodes + work)
    for job in prompts.new(3):
        seconds, work = waited(warm, [job])
        taken[ONE].append(seconds)
        taken[ONE_WORK].append(encodes / PROMPTS + work)
    taken[LOOP].append(timed(loop, pipe, model, prompts.new(PROMPTS), scratch / "loop.mp4"))
    if processes:
        (alone,) = prompts.new(1)
        taken[PROCESSES].append(PROMPTS * process_per_job(alone, scratch / "alone"))
    return taken


def main() -> None:
    """Run the benchmark."""
    args = parser(__doc__.splitlines()[0]).parse_args()
    torch.set_num_threads(1)
    shape = QUICK if args.quick else USUAL
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        model = with_wide_encoder(build_tiny_wan(scratch / "wan"), *((2, 64) if args.quick else (LAYERS, WIDTH)))
        prompts = Prompts(Jobs(model, scratch, shape))
        pipe = WanPipeline.from_pretrained(model)
        pipe.set_progress_bar_config(disable=True)
        # A quick run tries the script, for which one worker will do.
        clients = [
            stack.enter_context(served(scratch / f"keeps-{gib}", gib)) for gib in ("0", "1")[: 1 if args.quick else 2]
        ]
        for client in clients:
            waited(client, prompts.new(1))
        rounds = [
            one_round(clients[0], clients[-1], pipe, prompts, scratch, processes=not args.quick)
            for _ in range(rounds_of(args))
        ]
    report = Report("new_prompts", "New prompts, over their load, encodes, denoising and decoding")
    report.add(EIGHT, ratios(rounds, EIGHT, EIGHT_WORK), goal=1.05)
    report.add(ONE, ratios(rounds, ONE, ONE_WORK), goal=1.05)
    for contestant in (LOOP,) if args.quick else (LOOP, PROCESSES):
        report.add(contestant, ratios(rounds, contestant, EIGHT_WORK))
    report.conditions = {"shape": str(shape)}
    publish(report, args, packages=("torch", "diffusers", "transformers"))


if __name__ == "__main__":
    main()
