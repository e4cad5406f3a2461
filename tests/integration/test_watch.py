"""`rushes watch`: directories that a writer process fills slowly, renames in and deletes from."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from client_support import AWAY, snapshots, spooled, work
from queue_support import MODEL
from rushes import Client, Run, read_prompts
from rushes.checkpoints.safetensors import read_header
from rushes.checkpoints.store import store_of
from rushes.cli import main as cli
from rushes.watch import CheckpointWatcher, Search
from rushes.wire.jobs import SampleJob
from rushes.wire.models import ModelSpec
from rushes.wire.results import JobState
from support import wait_until

WRITER = Path(__file__).parents[1] / "acceptance" / "programs" / "slow_writer.py"

Write = Callable[..., None]
MakeWatcher = Callable[..., CheckpointWatcher]


@pytest.fixture
def write() -> Iterator[Write]:
    """Makes moves of a writer process, and returns when each is made."""
    with subprocess.Popen(
        [sys.executable, str(WRITER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin
        assert process.stdout

        def move(*words: object) -> None:
            process.stdin.write(" ".join(map(str, words)) + "\n")
            process.stdin.flush()
            assert process.stdout.readline() == "\n"

        yield move
        process.stdin.close()


@pytest.fixture
def out(tmp_path: Path) -> Path:
    directory = tmp_path / "out"
    directory.mkdir()
    return directory


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def watcher(tmp_path: Path, redis_url: str, said: list[str]) -> Iterator[MakeWatcher]:
    """Makes watchers with one prompt, to whom a complete file is ready at once."""
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a red ball --d 1\n")
    clients: list[Client] = []

    def make(
        *roots: Path,
        url: str = redis_url,
        staging: str | None = None,
        output_name: str | None = None,
        model: ModelSpec = MODEL,
        **options: object,
    ) -> CheckpointWatcher:
        clients.append(Client(url, retries=0))
        shared = Run(name="", model=model, output_dir="", staging=staging, output_name=output_name)
        settings = {"settle_s": 0.0, "report": said.append, **options}
        return CheckpointWatcher(roots, shared, lambda: read_prompts(prompts), clients[-1], **settings)  # type: ignore[arg-type]

    yield make
    for client in clients:
        client.close()


def sampled(url: str) -> list[tuple[str, int, int | None]]:
    """Output name, step and epoch of every sample, in the order in which they were queued."""
    client = Client(url)
    jobs = [record.job for record in reversed(client.list())]
    client.close()
    return [(job.output_name or "", job.step, job.epoch) for job in jobs if job]


def names(*roots: Path) -> list[str]:
    return sorted(path.name for root in roots for path in root.iterdir() if not path.name.startswith("."))


def test_musubi_files_are_sampled_once_they_are_whole(
    out: Path, watcher: MakeWatcher, write: Write, redis_url: str
) -> None:
    watching = watcher(out)
    write("begin", out / "cat-000001.safetensors", 100)
    watching.look()
    assert sampled(redis_url) == []
    write("begin", out / "cat-step00000150.safetensors", 150)
    write("end", out / "cat-000001.safetensors")
    watching.look()
    assert sampled(redis_url) == [("cat", 100, 1)]
    write("end", out / "cat-step00000150.safetensors")
    write("write", out / "cat.safetensors", "-")
    watching.look()
    watching.look()
    assert sampled(redis_url) == [("cat", 100, 1), ("cat", 150, None), ("cat", 150, None)]
    (run,) = Client(redis_url).runs()
    assert run.startswith("cat-")


@pytest.mark.parametrize("told", [True, False], ids=["by the flags", "by the metadata"])
def test_the_last_checkpoint_of_a_run_whose_name_ends_in_a_date_is_no_epoch(
    out: Path, watcher: MakeWatcher, redis_url: str, told: bool
) -> None:
    options = {"output_name": "cat-250131", "fixed": frozenset({"output_name"})} if told else {}
    watching = watcher(out, **options)
    for name, step in (("cat-250131-000001", "100"), ("cat-250131", "200")):
        about = {"ss_steps": step} if told else {"ss_steps": step, "ss_output_name": "cat-250131"}
        header = json.dumps({"__metadata__": about}).encode()
        (out / f"{name}.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    watching.look()
    assert sampled(redis_url) == [("cat-250131", 100, 1), ("cat-250131", 200, None)]


def test_a_checkpoint_that_is_rotated_away_is_sampled_all_the_same(
    out: Path, watcher: MakeWatcher, write: Write, redis_url: str
) -> None:
    watching = watcher(out)
    write("write", out / "checkpoint-500" / "pytorch_lora_weights.safetensors", "-")
    watching.look()
    write("delete", out / "checkpoint-500" / "pytorch_lora_weights.safetensors")
    watching.look()
    (kept,) = snapshots(out)
    assert read_header(kept)
    assert [result.step for result in work(redis_url)] == [500]
    assert snapshots(out) == []


def test_what_is_said_of_a_file_that_is_called_alike_at_every_step_names_its_directory(
    out: Path, watcher: MakeWatcher, write: Write, said: list[str]
) -> None:
    watching = watcher(out)
    write("write", out / "checkpoint-500" / "ema" / "pytorch_lora_weights.safetensors", "-")
    watching.look()
    assert said[-1].endswith("step 500: 1 sample of checkpoint-500/ema/pytorch_lora_weights.safetensors")


def test_an_adapter_is_sampled_when_its_configuration_is_there_too(
    out: Path, watcher: MakeWatcher, write: Write, redis_url: str
) -> None:
    watching = watcher(out)
    write("begin", out / "epoch1" / "adapter_model.safetensors", "-")
    write("text", out / "epoch1" / "adapter_config.json", '{"r": 4}')
    watching.look()
    write("write", out / "epoch2" / "adapter_model.safetensors", "-")
    watching.look()
    assert sampled(redis_url) == []
    write("text", out / "epoch2" / "adapter_config.json", '{"r": 4}')
    write("end", out / "epoch1" / "adapter_model.safetensors")
    watching.look()
    assert sampled(redis_url) == [("", 1, 1), ("", 2, 2)]


def test_a_file_that_is_renamed_into_place_is_sampled_once_under_its_name(
    out: Path, watcher: MakeWatcher, write: Write, redis_url: str
) -> None:
    watching = watcher(out)
    write("begin", out / "cat_000000500.safetensors.tmp", "-")
    watching.look()
    write("end", out / "cat_000000500.safetensors.tmp")
    write("rename", out / "cat_000000500.safetensors.tmp", out / "cat_000000500.safetensors")
    watching.look()
    write("rename", out / "cat_000000500.safetensors", out / "best.safetensors")
    watching.look()
    assert sampled(redis_url) == [("cat", 500, None)]
    write("write", out / "best.safetensors", 700)
    watching.look()
    assert sampled(redis_url) == [("cat", 500, None), ("best", 700, None)]


def test_a_file_that_has_its_size_before_its_content_is_waited_for(
    out: Path, watcher: MakeWatcher, write: Write, redis_url: str
) -> None:
    watching = watcher(out, settle_s=3600.0)
    write("write", out / "cat.safetensors", 5)
    watching.look()
    watching.look()
    assert watching.waiting.settling
    assert sampled(redis_url) == []
    watching.waiting.settle_s = 0.0
    watching.look()
    assert not watching.waiting.settling
    assert sampled(redis_url) == [("cat", 5, None)]


def test_a_watcher_that_starts_again_samples_what_it_missed_and_nothing_twice(
    out: Path, watcher: MakeWatcher, write: Write, redis_url: str, said: list[str]
) -> None:
    write("write", out / "cat-step00000100.safetensors", 100)
    write("begin", out / "cat-step00000200.safetensors", 200)
    watcher(out).look()
    write("end", out / "cat-step00000200.safetensors")
    write("write", out / "cat-step00000300.safetensors", 300)
    watcher(out).look()
    assert sampled(redis_url) == [("cat", 200, None), ("cat", 300, None)]
    write("write", out / "cat.safetensors", "-")
    watcher(out, backfill=True).look()
    assert sampled(redis_url)[2:] == [("cat", 100, None), ("cat", 300, None)]
    (out / ".rushes" / "watched.json").unlink()
    watcher(out, backfill=True, base=True).look()
    assert sampled(redis_url)[4:] == [("cat", 0, None)]
    assert said[0] == f"watching {out}; the 1 checkpoints in it are left alone (--backfill samples them)"


def test_many_directories_also_ones_that_are_made_later(
    tmp_path: Path, out: Path, watcher: MakeWatcher, write: Write, redis_url: str
) -> None:
    later = tmp_path / "later"
    watching = watcher(out, later, search=Search(recursive=True))
    for directory in (out / "one", out / "two", later):
        write("write", directory / "checkpoint-7" / "pytorch_lora_weights.safetensors", "-")
    watching.look()
    jobs = [record.job for record in Client(redis_url).list()]
    assert {job.output_dir for job in jobs if job} == {str(out / "one"), str(out / "two"), str(later)}
    assert len({job.run for job in jobs if job}) == 3


def test_while_redis_is_away_samples_wait_in_the_spool(
    out: Path, watcher: MakeWatcher, write: Write, redis_url: str, said: list[str]
) -> None:
    watching = watcher(out, url=AWAY)
    write("write", out / "cat-000001.safetensors", 10)
    watching.look()
    watching.look()
    assert (watching.unsent, len(spooled(out))) == (1, 1)
    assert sum("cannot be reached" in line for line in said) == 1
    watcher(out).look()
    assert sampled(redis_url) == [("cat", 10, 1)]
    assert spooled(out) == []


def test_a_store_that_is_away_ends_no_watcher_and_leaves_no_snapshot_behind(
    tmp_path: Path, out: Path, watcher: MakeWatcher, write: Write, redis_url: str, said: list[str]
) -> None:
    (tmp_path / "store").write_text("not a directory")
    watching = watcher(out, staging=f"file://{tmp_path}/store")
    write("write", out / "cat-000001.safetensors", 10)
    watching.look()
    watching.look()
    assert (watching.unsent, len(snapshots(out))) == (1, 1)
    assert sum("cannot be reached" in line for line in said) == 1
    (tmp_path / "store").unlink()
    watching.look()
    assert sampled(redis_url) == [("cat", 10, 1)]
    assert (spooled(out), snapshots(out)) == ([], [])
    store_of.cache_clear()


def test_a_checkpoint_that_cannot_be_kept_is_told_once_and_tried_again(
    out: Path, watcher: MakeWatcher, write: Write, redis_url: str, said: list[str]
) -> None:
    watching = watcher(out)
    blocking = out / ".rushes" / "checkpoints"
    blocking.write_text("not a directory")
    write("write", out / "cat-000001.safetensors", 10)
    watching.look()
    watching.look()
    assert watching.failed
    assert [line for line in said[1:] if "cat-000001.safetensors cannot be kept" in line] == said[1:]
    assert len(said) == 2
    blocking.unlink()
    watching.look()
    assert sampled(redis_url) == [("cat", 10, 1)]


def test_a_file_whose_name_is_not_unicode_stops_no_other(
    out: Path, watcher: MakeWatcher, write: Write, redis_url: str, said: list[str]
) -> None:
    watching = watcher(out)
    write("write", out / "cat-000001.safetensors", 10)
    (out / "cat-000001.safetensors").rename(out / os.fsdecode(b"cat-\xff.safetensors"))
    write("write", out / "cat-000002.safetensors", 20)
    watching.look()
    watching.look()
    assert sampled(redis_url) == [("cat", 20, 2)]
    assert sum("its name is not Unicode" in line for line in said) == 1
    assert "2 checkpoints" not in str(said)
    watcher(out).look()


def test_the_journal_forgets_checkpoints_that_are_gone_but_not_all_of_them_at_once(
    out: Path, watcher: MakeWatcher, write: Write, redis_url: str
) -> None:
    journal = out / ".rushes" / "watched.json"
    files = [out / f"cat-00000{epoch}.safetensors" for epoch in (1, 2)]
    for step, file in enumerate(files):
        write("write", file, step)
    watcher(out)
    files[0].unlink()
    assert "cat-000001" in journal.read_text()
    watching = watcher(out)
    write("write", out / "cat-000003.safetensors", 30)
    watching.look()
    assert "cat-000001" not in journal.read_text()
    assert "cat-000002" in journal.read_text()
    away = out / "away"
    away.mkdir()
    for file in (files[1], out / "cat-000003.safetensors"):
        file.rename(away / file.name)  # as if the directory were not mounted
    watching = watcher(out)
    for file in away.iterdir():
        file.rename(out / file.name)
    watching.look()
    assert sampled(redis_url) == [("cat", 30, 3)]


TWO_EXPERTS = ModelSpec(architecture="wan2.2-t2v-a14b", model="tiny", experts="both")


def queued(url: str) -> list[SampleJob]:
    """Every sample's job, in the order in which they were queued."""
    client = Client(url)
    jobs = [record.job for record in reversed(client.list())]
    client.close()
    return [job for job in jobs if job]


def unique_safetensors(path: Path) -> None:
    """A file without tensors whose content is like no other's."""
    header = json.dumps({"__metadata__": {"path": str(path)}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header)


def of_expert(job: SampleJob) -> tuple[int, str | None, str | None]:
    """Step, expert and label of a sample."""
    return job.step, job.checkpoint and job.checkpoint.expert, job.label


def test_files_of_two_experts_are_of_one_run_and_step_and_are_sampled_together(
    out: Path, watcher: MakeWatcher, redis_url: str, said: list[str]
) -> None:
    watching = watcher(out, model=TWO_EXPERTS, search=Search(short_experts=True))
    for name in ("zorp_000000250_high_noise", "zorp_000000250_low_noise", "zorp-high-000004", "zorp-low-000004_comfy"):
        unique_safetensors(out / f"{name}.safetensors")
    watching.look()
    watching.look()
    jobs = queued(redis_url)
    assert len({job.run for job in jobs}) == 1
    assert sorted(map(of_expert, jobs), key=str) == [(250, None, None), (4, "high", "high"), (4, "low", "comfy-low")]
    assert any("zorp_000000250_high_noise" in line and "zorp_000000250_low_noise" in line for line in said)


def test_the_file_of_one_expert_waits_for_the_other_one_that_is_being_written(
    out: Path, watcher: MakeWatcher, redis_url: str
) -> None:
    watching = watcher(out, model=TWO_EXPERTS)
    low = out / "zorp_000000250_low_noise.safetensors"
    unique_safetensors(low)
    whole = low.read_bytes()
    low.write_bytes(whole[:-1])
    unique_safetensors(out / "zorp_000000250_high_noise.safetensors")
    watching.look()
    assert queued(redis_url) == []
    low.write_bytes(whole)
    watching.look()
    assert list(map(of_expert, queued(redis_url))) == [(250, None, None)]


def test_the_file_of_one_expert_that_comes_late_is_sampled_with_the_other(
    out: Path, watcher: MakeWatcher, redis_url: str
) -> None:
    watching = watcher(out, model=TWO_EXPERTS)
    for expert in ("high", "low"):
        unique_safetensors(out / f"zorp_000000250_{expert}_noise.safetensors")
        watching.look()
    watching.look()
    assert list(map(of_expert, queued(redis_url))) == [(250, "high", "high"), (250, None, None)]


def test_one_of_two_that_is_overwritten_is_sampled_with_the_other_again(
    out: Path, watcher: MakeWatcher, redis_url: str
) -> None:
    watching = watcher(out, model=TWO_EXPERTS)
    for expert in ("high", "low"):
        unique_safetensors(out / f"zorp_{expert}_noise.safetensors")
    watching.look()
    header = json.dumps({"__metadata__": {"another": "content of it"}}).encode()
    (out / "zorp_low_noise.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    watching.look()
    first, second = queued(redis_url)
    assert first.checkpoint is not None
    assert second.checkpoint is not None
    assert first.checkpoint.fingerprint != second.checkpoint.fingerprint


@pytest.mark.parametrize("ending", ["", "_noise"])
def test_directories_of_two_experts_are_one_run(
    tmp_path: Path, watcher: MakeWatcher, redis_url: str, ending: str
) -> None:
    watching = watcher(tmp_path, model=TWO_EXPERTS, search=Search(recursive=True, short_experts=True))
    for expert in ("high", "low"):
        (tmp_path / f"zorp_{expert}{ending}").mkdir()
        unique_safetensors(tmp_path / f"zorp_{expert}{ending}" / "epoch-0.safetensors")
    unique_safetensors(tmp_path / f"zorp_low{ending}" / "epoch-1.safetensors")
    watching.look()
    first, second = queued(redis_url)
    assert first.run == second.run
    assert [of_expert(first), of_expert(second)] == [(1, None, None), (2, "low", "low")]


@pytest.mark.parametrize(
    ("choice", "told"),
    [
        ({"experts": "low"}, "--rushes_experts both"),
        ({"experts": "both", "lora_expert": "low"}, "--rushes_lora_expert"),
    ],
)
def test_a_file_for_an_expert_that_does_not_sample_is_left_alone_and_named(
    out: Path, watcher: MakeWatcher, redis_url: str, said: list[str], choice: dict[str, str], told: str
) -> None:
    model = TWO_EXPERTS.model_copy(update=choice)
    watching = watcher(out, model=model)
    for step in (100, 200):
        for expert in ("high", "low"):
            unique_safetensors(out / f"zorp_{step:09}_{expert}_noise.safetensors")
    watching.look()
    watching.look()
    assert [(job.step, job.checkpoint.expert) for job in queued(redis_url) if job.checkpoint] == [
        (100, "low"),
        (200, "low"),
    ]
    (line,) = [line for line in said if "left alone" in line]
    assert told in line


def test_a_copy_is_of_its_run_under_a_label(out: Path, watcher: MakeWatcher, redis_url: str) -> None:
    watching = watcher(out)
    for name in ("cat-000004", "cat-000004_comfy", "cat_EMA-000004"):
        unique_safetensors(out / f"{name}.safetensors")
    watching.look()
    jobs = queued(redis_url)
    assert len({job.run for job in jobs}) == 1
    assert {(job.output_name, job.step, job.label) for job in jobs} == {
        ("cat", 4, None),
        ("cat", 4, "comfy"),
        ("cat", 4, "ema"),
    }


def test_epochs_from_0_go_on_counting_so_when_the_first_is_gone(
    out: Path, watcher: MakeWatcher, redis_url: str
) -> None:
    watching = watcher(out)
    for epoch in range(2):
        unique_safetensors(out / f"epoch-{epoch}.safetensors")
        watching.look()
    (out / "epoch-0.safetensors").unlink()
    unique_safetensors(out / "epoch-2.safetensors")
    watching.look()
    for epoch in (3, 4):
        (out / f"epoch-{epoch - 2}.safetensors").unlink()
        watching = watcher(out)
        unique_safetensors(out / f"epoch-{epoch}.safetensors")
        watching.look()
    assert [(job.step, job.epoch) for job in queued(redis_url)] == [(1, 0), (2, 1), (3, 2), (4, 3), (5, 4)]


def test_a_directory_with_other_runs_only_is_told_which(out: Path, watcher: MakeWatcher, said: list[str]) -> None:
    unique_safetensors(out / "dog-000001.safetensors")
    watcher(out, output_name="cat", fixed=frozenset({"output_name"}))
    assert said == [f"watching {out}, which holds checkpoints of other runs only (dog)"]


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ([], "looked for *.safetensors"),
        (
            ["run1/cat-000001.safetensors"],
            "run1/cat-000001.safetensors lies deeper: watch its directory, or all of them",
        ),
        (["model.safetensors"], "model.safetensors is passed over"),
        (["cat.ckpt"], "looked for *.safetensors"),
    ],
)
def test_a_directory_without_a_checkpoint_is_told_what_was_looked_for(
    out: Path, watcher: MakeWatcher, said: list[str], files: list[str], told: str
) -> None:
    for name in files:
        (out / name).parent.mkdir(exist_ok=True)
        unique_safetensors(out / name)
    watcher(out)
    (line,) = said
    assert line.startswith(f"watching {out}, which holds no checkpoint yet: ")
    assert told in line


def test_what_is_no_safetensors_file_is_named_once_and_left_alone(
    out: Path, watcher: MakeWatcher, write: Write, redis_url: str, said: list[str]
) -> None:
    watching = watcher(out)
    write("text", out / "cat.safetensors", "\x80\x02 this is no checkpoint " * 5)
    watching.look()
    watching.look()
    assert [line for line in said if "left alone: " in line and "cat.safetensors" in line] == said[1:]
    assert sampled(redis_url) == []


def test_the_command_watches_survives_being_killed_and_ends_at_ctrl_c(
    tmp_path: Path, out: Path, write: Write, redis_url: str
) -> None:
    (tmp_path / "prompts.txt").write_text("a red ball --d 1\n")
    command = [sys.executable, "-m", "rushes", "watch", str(out), "--architecture", "wan2.1-t2v"]
    command += ["--rushes_model", "/models/tiny", "--sample_prompts", str(tmp_path / "prompts.txt")]
    command += ["--settle", "0.05", "--poll", "0.2", "--rushes_run", "mine"]
    environment = {**os.environ, "RUSHES_REDIS_URL": redis_url}

    def start() -> subprocess.Popen[str]:
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        assert process.stdout
        assert "watching" in process.stdout.readline()
        return process

    with start() as first:
        write("begin", out / "cat-000001.safetensors", 10)
        write("write", out / "cat-000002.safetensors", 20)
        wait_until(lambda: sampled(redis_url) == [("cat", 20, 2)], 30, "the whole one")
        first.kill()
    write("end", out / "cat-000001.safetensors")
    with start() as second:
        wait_until(lambda: len(sampled(redis_url)) == 2, 30, "the other one")
        second.send_signal(signal.SIGINT)
        rest = second.stdout.read() if second.stdout else ""
    assert second.returncode == 0
    assert "stopped; what is queued is still sampled" in rest
    assert sampled(redis_url) == [("cat", 20, 2), ("cat", 10, 1)]
    assert {record.state for record in Client(redis_url).list(run="mine")} == {JobState.QUEUED}


def test_once_samples_what_is_whole_and_names_what_is_not(
    tmp_path: Path,
    out: Path,
    write: Write,
    redis_url: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("RUSHES_REDIS_URL", redis_url)
    (tmp_path / "prompts.txt").write_text("a red ball --d 1\n")
    write("write", out / "cat-000001.safetensors", 10)
    write("write", out / "dog-000001.safetensors", 10)
    write("begin", out / "cat-000002.safetensors", 20)
    flags = ["--architecture", "wan2.1-t2v", "--rushes_model", "/models/tiny", "--output_dir", str(out)]
    flags += ["--output_name", "cat", "--sample_prompts", str(tmp_path / "prompts.txt"), "--settle", "0.01"]
    assert cli.main(["watch", *flags, "--backfill", "--once"]) == 0
    assert sampled(redis_url) == [("cat", 10, 1)]
    assert f"left alone: {out / 'cat-000002.safetensors'} is incomplete" in capsys.readouterr().out
    assert cli.main(["watch", *flags, "--once", "--rushes_url", AWAY]) == 0
