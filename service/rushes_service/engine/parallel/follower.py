"""A follower: `python -m rushes_service.engine.parallel.follower`, started by a worker with several devices."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import threading
from pathlib import Path

import torch

from rushes.wire.jobs import SampleJob
from rushes_service.engine.engine import Engine
from rushes_service.engine.kernels.attention import NATIVE
from rushes_service.engine.loaded import LoadedModel
from rushes_service.engine.parallel.group import Group
from rushes_service.engine.parallel.member import Member
from rushes_service.engine.parallel.trouble import goes_on, trouble_of
from rushes_service.engine.parallel.ways import WAYS
from rushes_service.engine.placement import transformers_of

logger = logging.getLogger("rushes.worker")


class Follower(Member):
    """Loads and merges what the leader does, and computes its part of every call."""

    def __init__(self, group: Group, way: str, engine: Engine) -> None:
        super().__init__(group, way)
        self.engine = engine
        self.loaded: LoadedModel | None = None
        engine.join(self)

    def run(self) -> None:
        """Until the leader ends it."""
        while True:
            what, about = self.group.hear()
            if what == "end":
                self.group.leave()
                return
            if what == "prepare":
                self._prepare(SampleJob.model_validate_json(*about))
            elif what == "unload":
                self.loaded = None
                self.engine.unload()
            else:
                self._call(*about)

    def _prepare(self, job: SampleJob) -> None:
        """Bring the weights to those of a job, and tell the leader what went wrong, if anything did."""
        self.loaded, problem = None, None
        try:
            self.loaded = self.engine.prepare(job)
        except Exception as error:  # noqa: BLE001 - the leader waits for the answer
            problem = error
        self.group.gather(trouble_of(problem) if problem else None)
        if problem is not None and not goes_on(problem):
            raise problem

    def _call(self, index: int, args: tuple, kwargs: dict) -> None:
        """One call. An error in it ends this process, and so the leader, which would wait for its part."""
        assert self.loaded is not None, "a call comes after `prepare`"
        with torch.no_grad():
            transformers_of(self.loaded.base)[index](*args, **kwargs)


def live_with_leader() -> None:
    """End with the leader, however that ends, and not before: it finishes its sample after a SIGTERM to all."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    threading.Thread(target=end_with_input, daemon=True).start()


def end_with_input() -> None:
    """Standard input is a pipe from the leader; it ends when the leader does."""
    while os.read(sys.stdin.fileno(), 1):  # unlike sys.stdin.read, it holds nothing that Python needs to end
        pass
    os._exit(0)


def main() -> None:
    """Join the group that the arguments tell, and follow."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rank", type=int)
    parser.add_argument("--size", type=int)
    parser.add_argument("--port", type=int)
    parser.add_argument("--way", choices=WAYS)
    parser.add_argument("--device")
    parser.add_argument("--cache-dir", type=Path)
    parser.add_argument("--dtype")
    parser.add_argument("--no_tf32", action="store_true")
    parser.add_argument("--threads", type=int)
    args = parser.parse_args()
    live_with_leader()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    if args.threads:
        torch.set_num_threads(args.threads)
    engine = Engine(args.device, args.cache_dir, args.dtype, attention=NATIVE, tf32=not args.no_tf32)
    Follower(Group(args.rank, args.size, engine.device, args.port), args.way, engine).run()


if __name__ == "__main__":
    main()
