"""A real worker whose device breaks in the middle of its first sample, the way CUDA breaks."""

import sys
from pathlib import Path

import torch

from rushes_service import engine
from rushes_service.queue import Queue
from rushes_service.settings import load_settings
from rushes_service.worker.loop import Worker, worker_name


class BrokenEngine(engine.Engine):
    """An engine whose transformer raises what a failed CUDA kernel raises."""

    def _sample(self, base, parameters, watch, clock):
        def broken(*_args: object, **_options: object) -> None:
            raise RuntimeError("CUDA error: device-side assert triggered")

        base.transformer.register_forward_pre_hook(broken)
        return super()._sample(base, parameters, watch, clock)


if __name__ == "__main__":
    torch.set_num_threads(1)
    settings = load_settings()
    broken = BrokenEngine("cpu", Path(sys.argv[1]))
    queue = Queue(settings.redis_url, worker=worker_name("broken"), lease_s=settings.lease_s)
    Worker(queue, broken, settings).run()
