"""The supervisor, with real processes: a driver of its own and small stand-in programs as children."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support import alive, wait_until

DRIVER = """
import json, sys
from rushes_service.processes import child, supervisor
child.FIRST_DELAY_S = 0.05
programs = [child.Program(name, tuple(command)) for name, command in json.loads(sys.argv[2])]
say = lambda name, text: print(f"{name}: {text}", flush=True)
sys.exit(supervisor.Supervisor(programs, grace_s=float(sys.argv[1]), print_line=say).run())
"""

STEADY = "import os, time; print('pid', os.getpid()); time.sleep(600)"
DEAF = (
    "import os, signal, time; signal.signal(15, lambda *_: print('deaf')); print('pid', os.getpid())\n"
    "while True: time.sleep(600)"
)
NEAT = (
    "import os, signal, sys, time; signal.signal(15, lambda *_: (print('neat'), sys.exit(0)));"
    " print('pid', os.getpid()); time.sleep(600)"
)
FAMILY = (
    "import os, subprocess, sys, time; child = subprocess.Popen(['sleep', '600']);"
    " print('pid', os.getpid()); print('grandchild', child.pid); time.sleep(600)"
)


class Driver:
    """A supervisor in a process of its own, and all that it has printed."""

    def __init__(self, programs: dict[str, str], grace_s: float) -> None:
        children = [(name, [sys.executable, "-c", code]) for name, code in programs.items()]
        command = [sys.executable, "-c", DRIVER, str(grace_s), json.dumps(children)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))

    def said(self, text: str) -> list[str]:
        """Lines that hold `text`."""
        return [line for line in self.lines if text in line]

    def number(self, name: str, word: str = "pid", nth: int = 0) -> int:
        """The number that child `name` printed after `word`, the `nth` time."""
        start = f"{name}: {word} "
        wait_until(lambda: len(self.said(start)) > nth, 20, f"{name}'s {word}")
        return int(self.said(start)[nth].removeprefix(start))

    def end(self, signum: int | None = None) -> int:
        """Its exit code, after `signum` if given."""
        if signum is not None:
            self.process.send_signal(signum)
        code = self.process.wait(60)
        self._reader.join(60)
        return code


@pytest.fixture
def drive() -> Iterator[Callable[..., Driver]]:
    drivers: list[Driver] = []

    def start(*, grace_s: float = 20.0, **programs: str) -> Driver:
        drivers.append(Driver(programs, grace_s))
        return drivers[-1]

    yield start
    for driver in drivers:
        if driver.process.poll() is None:
            driver.end(signal.SIGKILL)


def test_what_children_print_is_passed_on_under_their_names(drive: Callable[..., Driver]) -> None:
    driver = drive(api="import time; print('10 %\\r50 %\\r100 %'); print('no newline', end=''); time.sleep(600)")
    wait_until(lambda: driver.said("api: 100 %"), 20, "a progress bar's last state")
    driver.end(signal.SIGTERM)
    assert "api: no newline" in driver.lines


def test_a_dead_child_is_started_again_with_the_reason_and_a_growing_delay(drive: Callable[..., Driver]) -> None:
    driver = drive(worker="import os; print('pid', os.getpid()); os._exit(3)")
    wait_until(lambda: len(driver.said("exit code 3")) >= 3, 20, "three deaths")
    driver.end(signal.SIGTERM)
    delays = [line.rsplit(" in ", 1)[1] for line in driver.said("exit code 3")[:3]]
    assert delays == ["0.05 s", "0.1 s", "0.2 s"]


def test_a_killed_child_is_replaced_and_the_others_stay(drive: Callable[..., Driver]) -> None:
    driver = drive(api=STEADY, worker=STEADY)
    api, worker = driver.number("api"), driver.number("worker")
    os.kill(worker, signal.SIGKILL)
    replacement = driver.number("worker", nth=1)
    (ended,) = driver.said("worker: ended after ")
    assert re.search(r"after \d+ s \(killed by SIGKILL\)", ended)
    assert alive(replacement)
    assert alive(api)
    assert driver.end(signal.SIGTERM) == 0
    assert len(driver.said("api: pid")) == 1


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_stop_signal_ends_every_child_cleanly(drive: Callable[..., Driver], signum: signal.Signals) -> None:
    driver = drive(api=NEAT, worker=NEAT)
    pids = [driver.number("api"), driver.number("worker")]
    assert driver.end(signum) == 0
    assert len(driver.said("neat")) == 2
    assert not any(alive(pid) for pid in pids)


def test_a_child_that_outstays_the_grace_is_killed(drive: Callable[..., Driver]) -> None:
    driver = drive(worker=DEAF, grace_s=0.3)
    pid = driver.number("worker")
    assert driver.end(signal.SIGTERM) == 0
    assert driver.said("rushes: killing worker")
    assert not alive(pid)


def test_a_second_ctrl_c_does_not_wait(drive: Callable[..., Driver]) -> None:
    driver = drive(worker=DEAF, grace_s=600)
    pid = driver.number("worker")
    driver.process.send_signal(signal.SIGINT)
    wait_until(lambda: driver.said("worker: deaf"), 20, "the first Ctrl-C to arrive")

    def killed_by_further_ctrl_c() -> bool:
        if driver.process.poll() is None:
            driver.process.send_signal(signal.SIGINT)
        return driver.process.poll() is not None

    wait_until(killed_by_further_ctrl_c, 20, "a later Ctrl-C to kill")
    # One more of them may come when it has done its work and only ends: it then ends of that.
    assert driver.end() in (0, -signal.SIGINT)
    assert not alive(pid)


def test_no_process_outlives_a_supervisor_that_is_killed(drive: Callable[..., Driver]) -> None:
    driver = drive(api=STEADY, worker=STEADY)
    pids = [driver.number("api"), driver.number("worker")]
    driver.end(signal.SIGKILL)
    wait_until(lambda: not any(alive(pid) for pid in pids), 20, "the orphans' end")


def test_what_a_dead_child_started_dies_too(drive: Callable[..., Driver]) -> None:
    driver = drive(worker=FAMILY)
    grandchild = driver.number("worker", "grandchild")
    os.kill(driver.number("worker"), signal.SIGKILL)
    wait_until(lambda: not alive(grandchild), 20, "the grandchild's end")
    driver.end(signal.SIGTERM)


def test_a_child_with_wrong_flags_stops_everything_with_a_failure(drive: Callable[..., Driver]) -> None:
    driver = drive(api=STEADY, worker="import sys; print('no such device'); sys.exit(2)")
    assert driver.end() == 1
    assert driver.said("worker: no such device")
    assert driver.said("cannot run with these flags and settings")


def test_a_program_that_is_not_there_is_said_so(drive: Callable[..., Driver], tmp_path: Path) -> None:
    driver = drive(worker=f"import os; os.execv({str(tmp_path / 'nothing')!r}, ['x'])")
    wait_until(lambda: driver.said("No such file"), 20, "the reason")
    driver.end(signal.SIGTERM)
