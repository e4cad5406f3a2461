"""The client on Windows, against a real server and a worker on Linux."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rushes import Client
from rushes_service.processes.embedded_redis import EmbeddedRedis
from support import wait_until
from windows_support import VARIABLE, WINE, Windows, there

PROGRAM = str(there(Path(__file__).parent / "programs" / "trainer.py"))


@pytest.fixture(scope="session")
def windows() -> Iterator[Windows]:
    place = Path(os.environ.get(VARIABLE, ""))
    if not os.environ.get(VARIABLE) or not (place / "python" / "python.exe").is_file() or not WINE.is_file():
        pytest.skip(f"no Windows here: run tests/windows/setup.sh DIR, then set {VARIABLE}=DIR")
    system = Windows(place.absolute())
    yield system
    system.end()


@pytest.fixture
def train(windows: Windows) -> Iterator[tuple[Path, str]]:
    """The trainer's directory on drive C:, as it is called here and there."""
    here, name = windows.directory()
    yield here, name
    shutil.rmtree(here)


@pytest.fixture
def stopped(tmp_path: Path) -> Iterator[EmbeddedRedis]:
    """A server whose address is known and that is away until it is started."""
    with EmbeddedRedis(tmp_path / "redis", 0) as server:
        server.stop()
        yield server


def work(url: str, mapped: str, tmp_path: Path) -> str:
    """Have a worker sample everything that is queued; what it says."""
    command = [sys.executable, "-m", "rushes", "worker", "--dry-run", "--until-empty", "--redis-url", url]
    done = subprocess.run(
        [*command, "--map", mapped, "--cache-dir", str(tmp_path / "cache")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


def asked(url: str) -> list[tuple[int, int, str]]:
    """Step, prompt and directory of every sample that Redis knows, in order."""
    jobs = [record.job for record in Client(url).list(limit=100)]
    return sorted((job.step, job.prompt_index, job.output_dir) for job in jobs if job)


def test_a_whole_training_is_sampled_by_a_worker_on_linux(
    windows: Windows, train: tuple[Path, str], redis_url: str, tmp_path: Path
) -> None:
    here, name = train
    trainer = windows.start(PROGRAM, name, redis_url, "wait", "10", "20", "30")
    wait_until(lambda: len(asked(redis_url)) == 6, 120, "six samples")
    assert not list(here.glob("lora-*.safetensors"))  # rotated away already
    kept = sorted((here / ".rushes" / "checkpoints").iterdir())
    assert [re.fullmatch(r"[0-9a-f]{64}\.safetensors", path.name) is not None for path in kept] == [True] * 3
    work(redis_url, f"{name.lower()}={here}", tmp_path)
    printed, _ = trainer.communicate(timeout=120)
    lines = printed.replace("\r\n", "\n").splitlines()
    results = [line for line in lines if " done " in line]
    assert [line.split()[0] for line in results] == ["10", "10", "20", "20", "30", "30"], printed
    assert all(line.split()[2].lower().startswith(f"{name.lower()}\\sample\\lora_0000") for line in results), printed
    assert all(line.endswith(" True") for line in results), printed
    assert "left []" in lines, "snapshots that are needed no more"


def test_submissions_wait_on_disk_until_redis_is_back(
    windows: Windows, train: tuple[Path, str], stopped: EmbeddedRedis
) -> None:
    here, name = train
    trainer = windows.start(PROGRAM, name, stopped.url, "wait", "10", "20")
    wait_until(lambda: len(list((here / ".rushes" / "spool").glob("*.json"))) == 2, 120, "two spooled submissions")
    stopped.start()
    wait_until(lambda: len(asked(stopped.url)) == 4, 60, "four samples")
    wait_until(lambda: not list((here / ".rushes" / "spool").iterdir()), 30, "an empty spool")
    trainer.kill()
    trainer.communicate()
    assert asked(stopped.url) == [(step, index, name) for step in (10, 20) for index in (0, 1)]


def test_the_next_training_hands_over_what_a_killed_one_left(
    windows: Windows, train: tuple[Path, str], stopped: EmbeddedRedis
) -> None:
    here, name = train
    killed = windows.start(PROGRAM, name, stopped.url, "hang", "10")
    assert killed.stdout
    assert any(line.startswith("spooled") for line in killed.stdout)
    killed.kill()
    killed.communicate()
    windows.run(PROGRAM, name, stopped.url, "die", "20", fails=9)
    stopped.start()
    printed = windows.run(PROGRAM, name, stopped.url, "keep", "30")
    assert asked(stopped.url) == [(step, index, name) for step in (10, 20, 30) for index in (0, 1)], printed
    assert not list((here / ".rushes" / "spool").iterdir())


def test_watch_samples_a_directory_on_a_drive(windows: Windows, train: tuple[Path, str], redis_url: str) -> None:
    here, name = train
    (here / "look.png").write_bytes(b"a picture")
    (here / "prompts.txt").write_text(f"a red ball --d 1 --i {name}\\look.png\n")
    for step in (100, 200):
        header = f'{{"__metadata__":{{"step":"{step}"}}}}'.encode()
        path = here / "out" / f"cat-step{step:08d}.safetensors"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(len(header).to_bytes(8, "little") + header)
    arguments = ["-m", "rushes", "watch", f"{name}\\out", "--architecture", "wan2.1-t2v", "--rushes_url", redis_url]
    prompts = ["--sample_prompts", f"{name}\\prompts.txt", "--settle", "0", "--once"]
    printed = windows.run(*arguments, *prompts, "--backfill")
    assert "2 checkpoints to sample" in printed
    assert asked(redis_url) == [(step, 0, f"{name}\\out") for step in (100, 200)], printed
    kept = list((here / "out" / ".rushes" / "checkpoints").iterdir())
    assert [path.stat().st_nlink for path in kept] == [2, 2], "hard links, no copies"
    [job, _] = [record.job for record in Client(redis_url).list(run=None, limit=2)]
    assert job
    assert job.prompt.image_path == f"{name}\\look.png"
    assert "2 checkpoints known, 0 new" in windows.run(*arguments, *prompts)


FILES = r"""
import os, sys
from pathlib import Path
from rushes._platform import lock, open_shared, process_is_dead
root = Path(sys.argv[1])
path = root / "a.safetensors"
path.write_bytes(b"weights")
with path.open("rb"):
    try:
        path.unlink()
    except PermissionError:
        print("an open file cannot be deleted")
descriptor = open_shared(path)
path.rename(root / "b.safetensors")
(root / "b.safetensors").unlink()
print("one that is shared can", os.read(descriptor, 99))
os.close(descriptor)
try:
    open_shared(root / "absent.safetensors")
except FileNotFoundError as error:
    print("absent", error.filename == str(root / "absent.safetensors"))
with (root / "lock").open("ab") as first, (root / "lock").open("ab") as second:
    lock(first)
    try:
        lock(second)
    except OSError:
        print("locked")
print("alive", not process_is_dead(os.getpid()), "dead", process_is_dead(999999))
try:
    import rushes_service
except ImportError as error:
    print("WSL2" in str(error))
"""


def test_files_locks_and_processes_are_those_of_windows(
    windows: Windows, train: tuple[Path, str], tmp_path: Path
) -> None:
    program = tmp_path / "files.py"
    program.write_text(FILES)
    assert windows.run(str(there(program)), train[1]).splitlines() == [
        "an open file cannot be deleted",
        "one that is shared can b'weights'",
        "absent True",
        "locked",
        "alive True dead True",
        "True",
    ]


@pytest.mark.parametrize("command", ["up", "worker"])
def test_what_does_not_run_on_windows_says_so_and_names_the_way(windows: Windows, command: str) -> None:
    printed = windows.run("-m", "rushes", command, fails=2)
    assert re.search(rf"rushes {command}: .* does not run on Windows: run it in WSL2.*RUSHES_REDIS_URL", printed), (
        printed
    )


def test_commands_take_paths_of_windows(windows: Windows, train: tuple[Path, str], redis_url: str) -> None:
    here, name = train
    header = b'{"__metadata__":{}}'
    (here / "lora.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    (here / "prompts.toml").write_text(f"[prompt]\n[[prompt.subset]]\nprompt = 'a cat'\nimage_path = '{name}\\a.png'\n")
    printed = windows.run("-m", "rushes", "prompts", f"{name}\\prompts.toml", "--architecture", "wan2.1-i2v")
    assert "a cat" in printed
    arguments = ["--architecture", "wan2.1-i2v", "--sample_prompts", f"{name}\\prompts.toml", "--step", "5"]
    files = ["--weights", f"{name}\\lora.safetensors", "--output_dir", name, "--dit", f"{name}\\wan.safetensors"]
    windows.run("-m", "rushes", "submit", *arguments, *files, "--rushes_url", redis_url)
    [record] = Client(redis_url).list()
    assert record.job
    assert record.job.checkpoint
    assert record.job.checkpoint.path == f"{name}\\lora.safetensors"
    assert record.job.prompt.image_path == f"{name}\\a.png"
    assert record.job.model.label == "wan2.1-i2v (wan.safetensors)"
    assert record.id[:10] in windows.run("-m", "rushes", "jobs", "list", "--redis-url", redis_url)


def test_launchers_and_trackers_can_be_imported(windows: Windows) -> None:
    modules = "rushes.integrations.musubi, rushes.integrations.sd_scripts, rushes.trackers, rushes.watch"
    assert windows.run("-c", f"import {modules}; print('imported')") == "imported\n"
