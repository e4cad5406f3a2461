"""What must hold of the running services."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from shell import Failed, waits_for
from stack import Stack

SHORT = "a red circle moves right on black --w 64 --h 64 --f 17 --s 20 --d 7 --fs 3 --l 4\n"
LONG = SHORT.replace("--s 20", "--s 200")
GRACE_S = 90
"""Of a worker, in the compose file; the API has 15 s, Redis 30 s."""

AWAY_S = 30
LINES_MOST = 20
"""Of a worker's log for one outage, however long."""

KILL = """
import os, signal
for entry in filter(str.isdigit, os.listdir("/proc")):
    with open(f"/proc/{entry}/stat") as stat:
        parent = int(stat.read().rpartition(")")[2].split()[1])
    if parent == 1:
        os.kill(int(entry), signal.SIGKILL)
"""
"""Kills the worker, which is the child of the container's init; other programs started inside are not."""

Check = Callable[[str, bool], None]


class Checks:
    """The steps, in order; each tells `check` what it saw."""

    def __init__(self, stack: Stack, check: Check) -> None:
        self.stack = stack
        self.check = check
        self.short, self.long = stack.work / "short.txt", stack.work / "long.txt"
        self.short.write_text(SHORT)
        self.long.write_text(LONG)

    def directories(self) -> None:
        """A directory that is not there ends `up` and is not made."""
        missing = self.stack.work / "mistyped"
        self.stack.settings(TRAIN_DIR=missing)
        try:
            self.stack.compose("up", "-d", log="mistyped")
            refused = False
        except Failed as refusal:
            refused = str(missing) in str(refusal)
        self.check("a mistyped TRAIN_DIR is an error", refused)
        self.check("and is not made", not missing.exists())
        self.stack.compose("down", "--timeout", "1")
        self.stack.settings()

    def up(self) -> None:
        """Everything starts, is well, and stays as it is at a second `up`."""
        (self.stack.checkout / "rushes.env").write_text("OMP_NUM_THREADS=1\n")
        self.stack.compose("up", "-d", log="up")
        self.check("redis, api and worker are healthy", waits_for(self.stack.healthy, 300))
        before = [self.stack.container(name) for name in self.stack.services]
        self.stack.compose("up", "-d", log="up")
        self.check("a second `up` replaces nothing", before == [self.stack.container(n) for n in self.stack.services])
        printed = self.stack.inside(self.stack.worker, "printenv", "OMP_NUM_THREADS")
        self.check("rushes.env reaches the worker", printed.strip() == "1")

    def access(self) -> None:
        """Who may read what, and as whom the services run."""
        status = self.stack.status
        self.check("/readyz and /healthz answer without a token", [status("readyz"), status("healthz")] == [200, 200])
        pages = ("", "v1/runs", "metrics")
        self.check("everything else wants it", [status(page) for page in pages] == [401] * 3)
        self.check("and has it", [status(page, token=True) for page in pages] == [200] * 3)
        for name in ("api", self.stack.worker):
            text = self.stack.inside(name, "sh", "-c", "id -u; grep CapEff: /proc/self/status")
            uid, capabilities = text.split("\n")[0], text.split()[-1]
            confined = uid == str(self.stack.owner) and int(capabilities, 16) == 0
            self.check(f"{name} runs as {uid} without a capability", confined)
            hidden = self.stack.inside(name, "sh", "-c", "ls -a /app")
            self.check(f"no .env, .git or tests in {name}", not {".env", ".git", "tests"} & set(hidden.split()))
            self.check(f"rushes doctor passes in {name}", self.passes(name, "rushes", "doctor"))

    def sample(self) -> None:
        """A sample from the host."""
        asked = self.stack.submit("first", self.short, "--wait", "--timeout", "300")
        self.check("a sample from the host", asked.returncode == 0)
        made = self.clips("first")
        owners = {(clip.stat().st_uid, clip.stat().st_gid) for clip in made}
        self.check("its clip lies here, the owner's", owners == {(self.stack.owner, self.stack.group)})
        self.stack.run_directory("dots")
        beside = self.stack.model.parent
        asked = self.stack.submit("dots", self.short, "--wait", output="../train/first/../dots", cwd=beside)
        self.check("one for a directory with `..` in its path", asked.returncode == 0 and len(self.clips("dots")) == 1)
        elsewhere = self.stack.work / "elsewhere"
        asked = self.stack.submit("lost", self.short, "--wait", output=elsewhere)
        told = asked.returncode != 0 and "mounted" in asked.stdout + asked.stderr
        self.check("one for a directory that is not mounted fails and says so", told)

    def killed(self) -> None:
        """kill -9 of a worker in the middle of a sample."""
        self.begin("killed")
        self.stack.inside(self.stack.worker, "python", "-c", KILL)
        self.check("the sample of a killed worker is made", waits_for(self.done("killed"), 500))
        self.check("once", len(self.clips("killed")) == 1)
        self.check("after one restart", self.stack.inspect(self.stack.worker, "{{.RestartCount}}") == "1")

    def stopped(self) -> None:
        """Stop and start in the middle of a sample, with another waiting and a page open."""
        self.begin("stopped")
        self.stack.submit("after", self.short)
        with self.stack.get("v1/events"):
            self.stack.compose("stop", log="stop")
        codes = {self.stack.inspect(name, "{{.State.ExitCode}}") for name in self.stack.services}
        self.check("all stopped by themselves", codes == {"0"})
        self.stack.compose("start", log="start")
        both = [self.done("stopped"), self.done("after")]
        self.check("nothing is lost", all(waits_for(done, 500) for done in both))

    def redis_away(self) -> None:
        """Redis stopped under a worker in a sample."""
        self.begin("away")
        since = self.stack.inspect(self.stack.worker, "{{.State.StartedAt}}")
        before = len(self.stack.compose("logs", "--since", since, self.stack.worker).splitlines())
        self.stack.compose("stop", "redis", log="redis")
        time.sleep(AWAY_S)
        self.stack.compose("start", "redis", log="redis")
        self.check("the sample is made when Redis is back", waits_for(self.done("away"), 500))
        lines = len(self.stack.compose("logs", "--since", since, self.stack.worker).splitlines()) - before
        self.check(f"{AWAY_S} s without Redis are {lines} lines of log", lines < LINES_MOST)

    def down(self) -> None:
        """Down within the grace; up again with the queue."""
        self.stack.submit("kept", self.short)
        began = time.monotonic()
        self.stack.compose("down", log="down")
        took = time.monotonic() - began
        self.check(f"down in {took:.0f} s, within the grace", took < GRACE_S)
        self.stack.compose("up", "-d", log="up")
        self.check("the queue outlives it", waits_for(self.done("kept"), 500))
        empty = [clip for clip in self.stack.train.rglob("*.mp4") if clip.stat().st_size < 1000]
        self.check("no clip is empty", not empty)
        self.stack.compose("--profile", "*", "down", "--volumes", log="down")
        self.check("nothing is left", not self.stack.compose("ps", "--all", "--quiet").strip())

    def clips(self, run_name: str) -> list[Path]:
        """What was made for a run, as the host sees it."""
        return list((self.stack.train / run_name / "sample").glob("*.mp4"))

    def passes(self, service: str, *command: str) -> bool:
        """True if a command inside a container ends with exit code 0."""
        try:
            self.stack.inside(service, *command)
        except Failed:
            return False
        return True

    def done(self, run_name: str) -> Callable[[], bool]:
        """Whether a run has a sample that is done."""
        return lambda: bool(self.stack.jobs(run_name, "done"))

    def begin(self, run_name: str) -> None:
        """Submit a long sample and wait until it is being made."""
        self.stack.submit(run_name, self.long)
        self.check(
            f"{run_name}: a sample is being made", waits_for(lambda: bool(self.stack.jobs(run_name, "running")), 120)
        )
