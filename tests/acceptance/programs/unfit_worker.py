"""A real worker whose device breaks in the middle of its first sample, the way CUDA breaks."""

import sys
from pathlib import Path

import torch
from diffusers import WanTransformer3DModel

from rushes_service.engine.engine import Engine
from rushes_service.queue import Queue
from rushes_service.settings import load_settings
from rushes_service.worker.loop import Worker, worker_name


def broken(*_args: object, **_options: object) -> None:
    """What a failed CUDA kernel raises, in place of a transformer's step."""
    raise RuntimeError("CUDA error: device-side assert triggered")


if __name__ == "__main__":
    torch.set_num_threads(1)
    settings = load_settings()
    WanTransformer3DModel.forward = broken
    queue = Queue(settings.redis_url, worker=worker_name("broken"), lease_s=settings.lease_s)
    Worker(queue, Engine("cpu", Path(sys.argv[1])), settings).run()
