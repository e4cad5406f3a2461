"""`rushes worker --devices A,B --parallel ulysses`: one sample on several devices.

This process leads: it has the lease, the first device and the sample. For each other device it starts a follower, and
ends as unfit if one of them ends.
"""

from __future__ import annotations

import logging
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rushes.errors import ConfigError
from rushes.families.table import ARCHITECTURES
from rushes.wire.models import ModelSpec
from rushes_service.engine.parallel.ways import PARALLEL, computed_together
from rushes_service.settings import Settings

if TYPE_CHECKING:
    from rushes_service.engine.engine import Engine
    from rushes_service.engine.parallel.leader import Leader

logger = logging.getLogger("rushes.worker")

FOLLOWER = "rushes_service.engine.parallel.follower"


@dataclass(frozen=True)
class Together:
    """Devices that make one sample together, and how."""

    devices: tuple[str, ...]
    way: str

    @classmethod
    def parse(cls, devices: str | None, way: str | None, settings: Settings, only: str | None) -> Together | None:
        """What the flags say; None for a worker with one device.

        Raises:
            ConfigError: they do not go together.
        """
        if devices is None and way is None:
            return None
        named = tuple(part.strip() for part in (devices or "").split(","))
        if len(named) < 2 or way is None:
            raise ConfigError("--devices and --parallel go together: --devices cuda:0,cuda:1 --parallel ulysses")
        gpus = all(re.fullmatch(r"cuda:\d+", name) for name in named)
        if not (gpus and len(set(named)) == len(named)) and set(named) != {"cpu"}:
            raise ConfigError(f"--devices {devices}: give different GPUs, cuda:0,cuda:1")
        for flag, value, usual in (
            ("--device", settings.device, "auto"),
            ("--attention", settings.attention, "auto"),
            ("--offload", settings.offload, False),
            ("--compile", settings.compile, False),
        ):
            if value != usual:
                raise ConfigError(f"{flag} does not go with --devices")
        if only in ARCHITECTURES and only not in PARALLEL:
            raise ConfigError(f"--only {only}: several devices cannot compute it together; they can compute {known()}")
        return cls(named, way)

    def show_only_these(
        self, environment: MutableMapping[str, str], settings: Settings, score_device: str
    ) -> tuple[Settings, str]:
        """Leave this process and those it starts no GPUs but these, those of the decode and of the scores last.

        To be called before CUDA is used. diffusers and NCCL count a process's GPU from 0.

        Returns:
            Settings and the scores' device, with the numbers that devices have from now on.

        Raises:
            ConfigError: `CUDA_VISIBLE_DEVICES` lists fewer.
        """
        wanted = dict.fromkeys([*self.devices, settings.decode_device or "cpu", score_device])
        shown = [name for name in wanted if name.startswith("cuda:")]
        now = {name: f"cuda:{number}" for number, name in enumerate(shown)}
        if shown:
            seen = environment.get("CUDA_VISIBLE_DEVICES")
            numbers = [int(name.partition(":")[2]) for name in shown]
            names = seen.split(",") if seen else [str(number) for number in range(max(numbers) + 1)]
            if max(numbers) >= len(names):
                raise ConfigError(f"--devices {','.join(self.devices)}: CUDA_VISIBLE_DEVICES is {seen}")
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(names[number] for number in numbers)
        first, decode = self.devices[0], settings.decode_device
        changed = {
            "device": now.get(first, first),
            "shown_device": settings.shown_device or first,
            "attention": "native",
            "decode_device": now.get(decode, decode) if decode else None,
        }
        return settings.model_copy(update=changed), now.get(score_device, score_device)

    def lead(self, engine: Engine, settings: Settings, threads: int | None) -> Leader:
        """Start the followers and wait until all have joined; `settings` are those of `show_only_these`.

        Raises:
            ConfigError: there are fewer GPUs.
        """
        from rushes_service.engine.parallel.group import Group
        from rushes_service.engine.parallel.leader import Leader
        from rushes_service.runtime.devices import cuda_devices

        port, size = free_port(), len(self.devices)
        gpus = settings.device.startswith("cuda")
        if gpus and (there := cuda_devices()) < size:
            raise ConfigError(f"--devices {','.join(self.devices)}: only {there} of these GPUs are there")
        theirs = [f"cuda:{rank}" if gpus else settings.device for rank in range(size)]
        for rank, device in enumerate(theirs[1:], start=1):
            command = [sys.executable, "-m", FOLLOWER, "--rank", str(rank), "--size", str(size)]
            command += ["--port", str(port), "--way", self.way, "--device", device]
            command += ["--cache-dir", str(settings.cache_dir)]
            command += ["--dtype", settings.dtype] if settings.dtype else []
            command += ["--threads", str(threads)] if threads else []
            command += [] if settings.tf32 else ["--no_tf32"]
            # The pipe ends with this process, and so does the follower.
            follower = subprocess.Popen(command, stdin=subprocess.PIPE)
            threading.Thread(target=end_with, args=(follower, self.devices[rank]), daemon=True).start()
        leader = Leader(Group(0, size, engine.device, port), self.way)
        engine.join(leader)
        logger.info(
            "%s make each sample together; only those of %s are made here, and none in float8",
            ", ".join(self.devices),
            known(),
        )
        return leader

    def serving(self, serves: Callable[[ModelSpec], bool] | None) -> Callable[[ModelSpec], bool]:
        """A predicate for the models that these devices can compute, of those that are to be served."""
        return lambda model: computed_together(model) and (serves is None or serves(model))


def known() -> str:
    """The families, for messages."""
    return ", ".join(sorted(PARALLEL))


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


UNFIT = 70
"""The exit code of a worker that is unfit, as `rushes worker` has it."""


def end_with(follower: subprocess.Popen[bytes], device: str) -> None:
    """End this process when a follower fails: it would wait for its part of the next call."""
    if (code := follower.wait()) != 0:
        logger.critical(
            "the process on %s ended with code %d; this worker ends, its sample goes to another", device, code
        )
        os._exit(UNFIT)
