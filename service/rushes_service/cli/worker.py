"""`rushes worker`: make samples on one device."""

from __future__ import annotations

import argparse
import logging
import os
import re
from collections.abc import Callable
from pathlib import Path

from rushes.errors import ArchitectureError, ConfigError, WorkerUnfit
from rushes.families.table import architecture
from rushes.wire.models import ModelSpec
from rushes_service.engine.parallel.ways import WAYS
from rushes_service.queue import Queue
from rushes_service.runtime.per_process import call, called, use_growing_segments
from rushes_service.scores.registry import make_scores
from rushes_service.settings import GIB, Settings, load_settings
from rushes_service.storage.path_map import PathMap
from rushes_service.worker.devices import Together
from rushes_service.worker.dry_run import DryRunEngine
from rushes_service.worker.loop import Worker, worker_name
from rushes_service.worker.sample import Sampler

EXIT_UNFIT = 70
"""EX_SOFTWARE of sysexits.h: the process was unfit; start a new one."""

SETTINGS = (
    "device",
    "redis_url",
    "cache_dir",
    "map",
    "dtype",
    "offload",
    "attention",
    "decode_device",
    "batching",
    "min_free_vram",
    "encoder_memory",
    "model_memory",
    "compile",
)
"""Flags that are settings, too."""

FINGERPRINT = re.compile(r"[0-9a-f]{16}")
"""Of a base model."""

logger = logging.getLogger("rushes.worker")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `rushes worker`; each default is that of the settings."""
    add_engine_arguments(parser)
    parser.add_argument("--redis-url", help="Redis of the queue (default: RUSHES_REDIS_URL, else this machine)")
    parser.add_argument("--no-overlap", action="store_true", help="end one sample before the next one is begun")
    parser.add_argument("--only", metavar="MODEL", help="serve only this family, model path, hub id or fingerprint")
    parser.add_argument(
        "--map",
        action="append",
        metavar="THERE=HERE",
        help="directory of the trainer's machine and what it is called here; may be repeated (default: RUSHES_MAP)",
    )
    parser.add_argument("--until-empty", action="store_true", help="end when the queue is empty")
    parser.add_argument(
        "--dry-run",
        "--rehearse",
        action="store_true",
        help="paint instead of sampling, to test a deployment; needs no model and no GPU",
    )
    parser.add_argument(
        "--score",
        action="append",
        metavar="NAME=VALUE",
        help="score finished samples, clip=MODEL for example; may be repeated",
    )
    parser.add_argument(
        "--score_images", type=Path, metavar="DIR", help="training pictures: scores tell how near they are"
    )
    parser.add_argument(
        "--score_device", default="cpu", metavar="D", help="device of the scores' models (default: cpu)"
    )
    parser.add_argument("--threads", type=int, help="CPU threads that torch may use")


def add_engine_arguments(parser: argparse.ArgumentParser) -> None:
    """Those that say where and how samples are made."""
    parser.add_argument("--device", help="cpu, cuda, cuda:1, … (default: the first GPU, else the CPU)")
    parser.add_argument("--cache-dir", type=Path, help="where text embeddings are kept")
    parser.add_argument("--dtype", help="precision of transformers: bfloat16, float16 or float32")
    parser.add_argument("--offload", action="store_true", default=None, help="transformers stay in host memory")
    parser.add_argument(
        "--attention",
        metavar="NAME",
        help="auto (the best exact one), native, cudnn, flash, flash3, xformers, or sage, which is approximate",
    )
    parser.add_argument(
        "--batching",
        choices=("auto", "on", "off"),
        help="denoise small samples of one checkpoint, and guidance, in one batch (auto: on a GPU)",
    )
    parser.add_argument("--min_free_vram", metavar="GIB", type=float, help="wait for so much of the GPU's memory")
    parser.add_argument(
        "--encoder_memory",
        metavar="GIB",
        type=float,
        help="host memory for text encoders between prompts; 0 keeps none (default: what leaves a quarter available)",
    )
    parser.add_argument(
        "--model_memory",
        metavar="GIB",
        type=float,
        help="host memory for base models not in use; 0 keeps none (default: what leaves a quarter available)",
    )
    parser.add_argument("--decode_device", metavar="D", help="decode on another GPU, cuda:1 for example")
    parser.add_argument("--no_tf32", action="store_true", help="keep convolutions in float32 exact: three times slower")
    parser.add_argument(
        "--compile", action="store_true", default=None, help="run transformers' blocks by compiled graphs, once built"
    )
    parser.add_argument("--devices", metavar="D,D", help="GPUs that make each sample together, with --parallel")
    parser.add_argument("--parallel", choices=WAYS, help="how they do, see docs/operations.md")


def run(args: argparse.Namespace) -> int:
    """Run a worker in this process; returns its exit code."""
    given = {name: getattr(args, name) for name in SETTINGS}
    off = {name: False for name in ("overlap", "tf32") if getattr(args, f"no_{name}")}
    settings = load_settings(**given, **off)
    paths = PathMap.parse(settings.map)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

    if args.score_images and not args.score_images.is_dir():
        raise ConfigError(f"--score_images {args.score_images}: there is no such directory")
    only = serves(args.only)
    together = Together.parse(args.devices, args.parallel, settings, args.only)
    if together:
        only = together.serving(only)
        settings, args.score_device = together.show_only_these(os.environ, settings, args.score_device)
    scores = make_scores(args.score or (), args.score_images, args.score_device)
    engine = make_engine(settings, args)
    leader = together.lead(engine, settings, args.threads) if together and not args.dry_run else None
    if settings.shown_device:
        call(str(engine.device), settings.shown_device)
    name = worker_name(called(engine.device))
    queue = Queue(
        settings.redis_url,
        worker=name,
        lease_s=settings.lease_s,
        patience_s=settings.patience_s,
        only=only,
        locate=paths.to_local,
    )
    try:
        Worker(queue, engine, settings, until_empty=args.until_empty, paths=paths, scores=scores).run()
    except WorkerUnfit as error:
        logger.critical("%s; this worker ends, its sample goes to another", error)
        # Not a normal exit: after a CUDA error, destructors may hang.
        os._exit(EXIT_UNFIT)
    if leader is not None:
        leader.end()
    return 0


def make_engine(settings: Settings, args: argparse.Namespace) -> Sampler:
    """The engine, or with `--dry-run` the one that paints."""
    if args.dry_run:
        return DryRunEngine()
    use_growing_segments(os.environ)
    # Imported here: torch and diffusers take seconds.
    from rushes_service.engine.engine import Engine
    from rushes_service.engine.kernels.compiling import keep_graphs

    if settings.compile:
        keep_graphs(settings.cache_dir)
    set_threads(args.threads)
    return Engine(
        settings.device,
        settings.cache_dir,
        settings.dtype,
        cache_bytes=int(settings.cache_max_gb * GIB),
        offload=settings.offload,
        attention=settings.attention,
        tf32=settings.tf32,
        decode_device=settings.decode_device,
        batching=settings.batching,
        min_free_gib=settings.min_free_vram,
        encoder_bytes=settings.encoder_bytes,
        model_bytes=settings.model_bytes,
        compiled=settings.compile,
    )


def serves(only: str | None) -> Callable[[ModelSpec], bool] | None:
    """A predicate for the model that `--only` names; None serves every model.

    Raises:
        ConfigError: no model can be called so. Paths are the trainer's, and need not be here.
    """
    if only is None:
        return None
    if not ({"/", "\\"} & set(only) or FINGERPRINT.fullmatch(only)):
        try:
            architecture(only)
        except ArchitectureError as error:
            raise ConfigError(f"--only {only}: {error}. A path, a hub id or a fingerprint will do, too") from None
    return lambda model: only in (model.architecture, model.model, model.dit, model.fingerprint)


def set_threads(threads: int | None) -> None:
    """Limit torch's CPU threads."""
    if threads:
        import torch

        torch.set_num_threads(threads)
