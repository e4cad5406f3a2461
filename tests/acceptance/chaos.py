"""Break everything that can break while two trainers submit and workers work; then look whether anything was lost.

`python tests/acceptance/chaos.py --seconds 300 --seed 7` runs it for longer than the test suite does.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import redis

from rushes._paths import SNAPSHOT_DIR
from rushes.client.client import Client
from rushes.errors import QueueUnavailable
from rushes.wire import keys
from rushes.wire.results import JobRecord, JobState
from rushes_service.media.temporary import clear
from rushes_service.processes.embedded_redis import EmbeddedRedis
from rushes_service.worker.drift import BASE_DIR
from support import wait_until

PROGRAMS = Path(__file__).parent / "programs"
WORKERS = 3
TRAINERS = ("alpha", "beta")
PROMPTS = """\
a red ball --w 32 --h 32 --d 1 --s 6
a blue ball --w 32 --h 32 --f 5 --d 2 --s 6
a green ball --w 32 --h 32 --s 6
"""
LEASE_S = 1.0
KILLS_PER_UNREMOVED = 20
"""That moment is short: one kill in a hundred hits it."""
DRAIN_S = 300.0


@dataclass
class Report:
    """What happened: samples by state, and what should not be."""

    states: Counter[str] = field(default_factory=Counter)
    actions: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    unremoved: int = 0
    """Checkpoint snapshots that no sample needs, and that wait for the trainer's next look."""

    stalls: list[float] = field(default_factory=list)

    @property
    def stall_p99_ms(self) -> float:
        """99th percentile of the time that one submit held a trainer up."""
        return sorted(self.stalls)[int(len(self.stalls) * 0.99)] * 1000


class Chaos:
    """One run of it in `directory`."""

    def __init__(self, directory: Path, seed: int) -> None:
        self.directory = directory
        self.rng = random.Random(seed)
        self.server = EmbeddedRedis(directory / "state", port=free_port())
        self.report = Report()
        self.workers: list[subprocess.Popen[bytes]] = []
        self.paused: list[tuple[float, subprocess.Popen[bytes]]] = []
        self.outputs = {name: directory / name for name in TRAINERS}

    def run(self, seconds: float) -> Report:
        """Trainers submit for `seconds`; then everything is healed, drained and checked."""
        prompts = self.directory / "prompts.txt"
        prompts.write_text(PROMPTS)
        self.server.start()
        trainers = []
        try:
            self.workers = [self.start_worker() for _ in range(WORKERS)]
            trainers = [self.start_trainer(name, prompts, seconds) for name in TRAINERS]
            while any(trainer.poll() is None for trainer in trainers):
                self.break_something()
                time.sleep(self.rng.uniform(0.1, 0.8))
            self.heal()
            self.drain()
            self.check()
        finally:
            for process in [*trainers, *self.workers]:
                if process.poll() is None:
                    process.send_signal(signal.SIGCONT)
                    process.kill()
                process.wait()
            self.server.stop()
        return self.report

    def start_worker(self) -> subprocess.Popen[bytes]:
        environment = {
            **self.environment(),
            "RUSHES_LEASE_S": str(LEASE_S),
            "RUSHES_HEARTBEAT_S": "0.1",
            # Chaos kills every worker it can; no sample is to blame for that.
            "RUSHES_MAX_DELIVERIES": "1000",
        }
        command = [sys.executable, "-m", "rushes", "worker", "--dry-run"]
        return self.spawn(command, f"worker-{len(self.workers)}-{time.monotonic_ns()}", environment)

    def start_trainer(self, name: str, prompts: Path, seconds: float) -> subprocess.Popen[bytes]:
        self.outputs[name].mkdir()
        report = self.directory / f"{name}.json"
        arguments = [str(self.outputs[name]), str(prompts), str(seconds), str(report), name]
        command = [sys.executable, str(PROGRAMS / "chaos_trainer.py"), *arguments]
        return self.spawn(command, f"trainer-{name}", self.environment())

    def environment(self) -> dict[str, str]:
        return {**os.environ, "RUSHES_REDIS_URL": self.server.url}

    def spawn(self, command: list[str], log: str, environment: dict[str, str]) -> subprocess.Popen[bytes]:
        with (self.directory / f"{log}.log").open("wb") as out:
            return subprocess.Popen(command, env=environment, stdout=out, stderr=out, start_new_session=True)

    # What goes wrong.

    def break_something(self) -> None:
        self.wake_the_paused(time.monotonic())
        self.replace_the_dead()
        choices = {self.kill_worker: 5, self.pause_worker: 3, self.cancel_one: 5, self.kill_redis: 1, self.nothing: 8}
        action = self.rng.choices(list(choices), list(choices.values()))[0]
        action()
        self.report.actions[action.__name__] += 1

    def nothing(self) -> None:
        """A quiet moment."""

    def kill_worker(self) -> None:
        self.rng.choice(self.workers).kill()

    def pause_worker(self) -> None:
        """Longer than its lease: it comes back when its sample belongs to somebody else."""
        worker = self.rng.choice(self.workers)
        if worker.poll() is None:
            worker.send_signal(signal.SIGSTOP)
            self.paused.append((time.monotonic() + LEASE_S * self.rng.uniform(1.2, 3), worker))

    def cancel_one(self) -> None:
        client = Client(self.server.url)
        try:
            open_ = [record for record in client.list(limit=60) if not record.state.terminal]
            if open_:
                client.cancel(self.rng.choice(open_).id)
        except QueueUnavailable:
            pass
        finally:
            client.close()

    def kill_redis(self) -> None:
        """As a crash does; its file is all that remains."""
        assert self.server.pid
        os.kill(self.server.pid, signal.SIGKILL)
        wait_until(lambda: not self.server.running, 10, "the server to be gone")
        time.sleep(self.rng.uniform(0, 1))
        self.server.start()

    def wake_the_paused(self, now: float) -> None:
        due = [worker for until, worker in self.paused if until <= now]
        self.paused = [(until, worker) for until, worker in self.paused if until > now]
        for worker in due:
            if worker.poll() is None:
                worker.send_signal(signal.SIGCONT)

    def replace_the_dead(self) -> None:
        for index, worker in enumerate(self.workers):
            if worker.poll() is not None:
                self.workers[index] = self.start_worker()

    # What must be right afterwards.

    def heal(self) -> None:
        self.wake_the_paused(float("inf"))
        self.replace_the_dead()
        self.server.start()
        # A trainer that ended during an outage has left its last hand-offs on disk, as it says when it ends.
        outputs = [str(path) for path in self.outputs.values()]
        command = [sys.executable, "-m", "rushes", "spool", "replay", *outputs]
        subprocess.run(command, env=self.environment(), check=True, stdout=subprocess.DEVNULL)

    def drain(self) -> None:
        client = Client(self.server.url)
        wait_until(
            lambda: all(record.state.terminal for record in self.records(client)), DRAIN_S, "every sample to end"
        )
        client.close()

    def records(self, client: Client) -> list[JobRecord]:
        return client.list(limit=100_000)

    def check(self) -> None:
        client = Client(self.server.url)
        records = self.records(client)
        self.report.states.update(record.state.value for record in records)
        for name in TRAINERS:
            told = json.loads((self.directory / f"{name}.json").read_text())
            self.report.stalls += told["stalls"]
            of_run = [record for record in records if record.run == name]
            expected = told["steps"] * len(PROMPTS.splitlines())
            self.expect(len(of_run) == expected, f"{name}: {len(of_run)} samples of {expected}")
            self.check_results(client, name, of_run)
            self.check_files(client, name, of_run)
        self.check_keys(client)
        client.close()

    def check_results(self, client: Client, run: str, records: list[JobRecord]) -> None:
        """Each sample ended exactly once."""
        ended = Counter(fields["id"] for _, fields in client.redis.xrange(keys.results(run)))
        self.expect(max(ended.values(), default=1) == 1, f"{run}: samples that ended more than once")
        self.expect(set(ended) == {record.id for record in records}, f"{run}: results and records differ")

    def check_files(self, client: Client, run: str, records: list[JobRecord]) -> None:
        """Exactly one media file and receipt for each `done`, and nothing else."""
        wanted = {
            str(path)
            for record in records
            if record.state is JobState.DONE and record.result
            for path in (record.result.path, record.result.receipt)
        }
        clear(self.outputs[run] / "sample", "the next sample")  # removes what killed workers were writing
        found = {str(path) for path in (self.outputs[run] / "sample").rglob("*") if path.is_file()}
        self.expect(
            found == wanted, f"{run}: files too many {sorted(found - wanted)[:3]}, missing {sorted(wanted - found)[:3]}"
        )
        # What drift is measured against stays, by intent: one small file for each sample of the base model.
        kept = self.outputs[run] / BASE_DIR
        left = {path for path in (self.outputs[run] / ".rushes").rglob("*") if path.is_file() and path.parent != kept}
        # A worker that is killed between its last word and the removal leaves that to the trainer, which is gone here.
        snapshots = client.unneeded([path for path in left if path.parent == self.outputs[run] / SNAPSHOT_DIR])
        self.report.unremoved += len(snapshots)
        limit = 1 + self.report.actions["kill_worker"] // KILLS_PER_UNREMOVED
        self.expect(self.report.unremoved <= limit, f"{run}: {len(snapshots)} snapshots not removed")
        left.difference_update(snapshots)
        self.expect(not left, f"{run}: snapshots or spool files left: {sorted(left)[:3]}")

    def check_keys(self, client: Client) -> None:
        connection: redis.Redis = client.redis
        for key in connection.scan_iter():
            lasting = connection.ttl(key) == -1
            allowed = key in keys.PERMANENT or key.startswith(keys.PERMANENT_PREFIXES)
            self.expect(not lasting or allowed, f"key without TTL: {key}")
            if key.startswith(keys.LANE_PREFIX):
                self.expect(connection.xlen(key) == 0, f"{key} is not empty")
                self.expect(connection.xpending(key, keys.GROUP)["pending"] == 0, f"{key} has pending entries")
            self.expect(not key.startswith(keys.SNAPSHOT_PREFIX), f"snapshot set left: {key}")

    def expect(self, holds: bool, problem: str) -> None:
        if not holds:
            self.report.problems.append(problem)


def free_port() -> int:
    """A port that is free now; the server keeps it over its restarts."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def main() -> int:
    """Run, print the report, exit 1 if anything was wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--seed", type=int, default=None)
    args = parser.parse_args()
    seed = args.seed if args.seed is not None else random.randrange(10**6)
    directory = Path(tempfile.mkdtemp(prefix="rushes-chaos-"))
    print(f"seed {seed}, in {directory}", flush=True)
    report = Chaos(directory, seed).run(args.seconds)
    print(f"samples: {dict(report.states)}")
    print(f"broken: {dict(report.actions)}")
    print(f"snapshots that are left to the trainer: {report.unremoved}")
    print(f"submit: {len(report.stalls)} calls, p99 {report.stall_p99_ms:.3f} ms")
    for problem in report.problems:
        print(f"PROBLEM {problem}")
    return 1 if report.problems or report.stall_p99_ms >= 1 else 0


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))
    sys.exit(main())
