"""How much memory a device has, and how much of it one sample took."""

from __future__ import annotations

import gc
import resource
import sys
import threading

import psutil
import torch


def free_memory(device: torch.device) -> None:
    """Collect garbage and return cached blocks to the device."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def peak_memory(device: torch.device) -> dict[str, int | str]:
    """Peak memory in bytes: on a GPU since the statistics were reset, on the CPU of the process since it started."""
    if device.type == "cuda":
        return {"bytes": torch.cuda.max_memory_allocated(device), "of": "device"}
    unit = 1 if sys.platform == "darwin" else 1024
    return {"bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit, "of": "process"}


def memory_now(device: torch.device, peak: int) -> dict[str, int]:
    """Bytes as a worker announces them, by the names it announces them under.

    `memory` is what this process holds and `memory_peak`, which is `peak`, the most that it held; `memory_used`, by all
    processes, and `memory_total` are of the whole GPU, or of the machine on the CPU.
    """
    if device.type == "cuda":
        held = torch.cuda.memory_allocated(device)
        free, total = torch.cuda.mem_get_info(device)
    else:
        held, machine = psutil.Process().memory_info().rss, psutil.virtual_memory()
        free, total = machine.available, machine.total
    return {"memory": held, "memory_peak": peak, "memory_used": total - free, "memory_total": total}


class PeakMeters:
    """Peak memory of samples that may be made at the same time, two at most.

    CUDA keeps one peak for the device. It is read and noted for every sample that is being made whenever one of them
    begins or ends, and begun anew when one begins. So each sample's peak is of its own time, with the memory of a
    sample beside it.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.latest = 0
        """The peak of the sample that is being made, or was made last, in bytes."""
        self._running: set[PeakMeter] = set()
        self._lock = threading.Lock()

    def begin(self) -> PeakMeter:
        """Measure another sample from now on."""
        meter = PeakMeter(self)
        with self._lock:
            self._note()
            if self._device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(self._device)
            for other in self._running:
                other.shared = meter.shared = True
            self._running.add(meter)
        return meter

    def end(self, meter: PeakMeter) -> None:
        """Measure a sample no longer."""
        with self._lock:
            self._note()
            self._running.discard(meter)

    def note(self) -> int:
        """Bring all meters up to date; returns `latest`."""
        with self._lock:
            self._note()
            return self.latest

    def _note(self) -> None:
        peak = int(peak_memory(self._device)["bytes"])
        for meter in self._running:
            meter.bytes = max(meter.bytes, peak)
        self.latest = max((meter.bytes for meter in self._running), default=self.latest)


class PeakMeter:
    """The peak of one sample, until `end`. `shared`: another sample was being made during a part of that time."""

    def __init__(self, meters: PeakMeters) -> None:
        self._meters = meters
        self.bytes = 0
        self.shared = False

    def end(self) -> None:
        """Stop measuring; may be called again."""
        self._meters.end(self)

    def facts(self) -> dict[str, int | str | bool]:
        """For the receipt."""
        self._meters.note()
        of = str(peak_memory(self._meters._device)["of"])
        return {"bytes": self.bytes, "of": of, **({"shared": True} if self.shared else {})}
