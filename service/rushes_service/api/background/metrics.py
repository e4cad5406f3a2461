"""Prometheus metrics: gauges of queue and workers, read at a scrape; counters and histograms, updated by events."""

from __future__ import annotations

import json
from collections import Counter as Tally
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from rushes.client.client import Client
from rushes.client.lanes import lanes
from rushes.wire import keys
from rushes.wire.connection import reachable
from rushes.wire.results import JobState
from rushes_service.api.background.events_consumer import QueueEvent

ENDS = frozenset(state.value for state in JobState if state.terminal)

SECONDS = (0.1, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600)
"""Bounds of the histograms: a still on a fast GPU to a long clip on a slow one."""

MEMORY = {"memory": "held", "memory_peak": "peak", "memory_used": "used", "memory_total": "total"}
"""Fields that workers announce -> label `what` of the gauge."""

MAX_OPEN = 100_000
"""Samples whose submission time is remembered until they start."""


class Metrics:
    """Counters since this process started; one instance per API."""

    def __init__(self, client: Client) -> None:
        self.registry = CollectorRegistry()
        self.ended = Counter("rushes_samples", "Samples that have ended.", ["state"], registry=self.registry)
        self.failures = Counter("rushes_failures", "Samples that failed, by reason.", ["code"], registry=self.registry)
        self.flagged = Counter("rushes_flagged", "Samples that look wrong.", ["flag"], registry=self.registry)
        self.drift = Gauge(
            "rushes_drift",
            "Drift of the newest sample of a prompt, in latents.",
            ["run", "prompt", "control"],
            registry=self.registry,
        )
        self.retries = Counter("rushes_retries", "Attempts that are made again.", registry=self.registry)
        self.wait = Histogram("rushes_wait_seconds", "From queued to started.", buckets=SECONDS, registry=self.registry)
        self.work = Histogram("rushes_sample_seconds", "Time of a worker.", buckets=SECONDS, registry=self.registry)
        self.stages = Histogram(
            "rushes_stage_seconds", "Time of a stage.", ["stage"], buckets=SECONDS, registry=self.registry
        )
        self.memory = Gauge(
            "rushes_peak_memory_bytes", "Most memory of the newest sample.", ["device"], registry=self.registry
        )
        self.registry.register(QueueCollector(client))
        self._queued: OrderedDict[str, float] = OrderedDict()

    def receive(self, event: QueueEvent) -> None:
        """Count one event."""
        if event.kind == "queued":
            self._queued[event.sample] = event.at
            if len(self._queued) > MAX_OPEN:
                self._queued.popitem(last=False)
        elif event.kind == "started" and event.sample in self._queued:
            self.wait.observe(max(0.0, event.at - self._queued.pop(event.sample)))
        elif event.kind == "retry":
            self.retries.inc()
        elif event.kind in ENDS:
            self._ended(event)

    def _ended(self, event: QueueEvent) -> None:
        self._queued.pop(event.sample, None)
        self.ended.labels(event.kind).inc()
        error = event.data.get("error")
        if event.kind in ("failed", "dead"):
            self.failures.labels(error.get("code", "error") if isinstance(error, dict) else "error").inc()
        for flag in event.data.get("health", ()):
            self.flagged.labels(flag).inc()
        if event.kind == "done":
            self._measure(event)
            self.work.observe(event.data.get("seconds") or 0.0)
            self._read_receipt(event.data.get("receipt"))

    def _measure(self, event: QueueEvent) -> None:
        drift, prompt = event.data.get("drift") or {}, event.data.get("prompt") or {}
        if drift.get("latents") is not None:
            control = "yes" if prompt.get("drift_limit") is not None else "no"
            self.drift.labels(event.run, str(event.data.get("prompt_index", 0)), control).set(drift["latents"])

    def _read_receipt(self, path: str | None) -> None:
        try:
            receipt = json.loads(Path(path).read_text(encoding="utf-8")) if path else {}
            for stage, seconds in (receipt.get("seconds") or {}).items():
                self.stages.labels(stage).observe(seconds)
            memory = receipt.get("peak_memory") or {}
            if "bytes" in memory:
                self.memory.labels(str(receipt.get("device", memory.get("of", "")))).set(memory["bytes"])
        # A receipt that is on another machine's disk, or another program's, adds nothing to the numbers.
        except (OSError, ValueError, AttributeError, TypeError):
            return


class QueueCollector(Collector):
    """Lanes and workers as they are at the moment of a scrape."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def describe(self) -> list[GaugeMetricFamily]:
        """Nothing: else the registry would read Redis when this is registered."""
        return []

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The gauges."""
        waiting = GaugeMetricFamily("rushes_queue_waiting", "Queued samples.", labels=["model", "priority"])
        running = GaugeMetricFamily("rushes_queue_running", "Running samples.", labels=["model", "priority"])
        for lane in lanes(self._client):
            fingerprint = lane.key.removeprefix(keys.LANE_PREFIX).partition(":")[0]
            labels = [f"{lane.model} {fingerprint[:6]}", lane.priority]
            waiting.add_metric(labels, lane.queued)
            running.add_metric(labels, lane.running)
        yield from (waiting, running)
        with reachable(self._client.url):
            yield GaugeMetricFamily(
                "rushes_queue_delayed", "Wait for another attempt.", value=self._client.redis.zcard(keys.DELAYED)
            )
        living = self._client.workers()
        workers = GaugeMetricFamily("rushes_workers", "Live workers by what they do.", labels=["state"])
        for state, count in Tally(info.get("state", "") for info in living).items():
            workers.add_metric([state], count)
        memory = GaugeMetricFamily(
            "rushes_worker_memory_bytes",
            "Memory that a worker holds, the most it held for a sample, what is used of its device, and all of that.",
            labels=["worker", "device", "what"],
        )
        for info in living:
            for name, what in MEMORY.items():
                if info.get(name, "").isdecimal():
                    memory.add_metric([info["name"], info.get("device", ""), what], int(info[name]))
        yield from (workers, memory)
