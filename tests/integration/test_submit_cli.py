"""`rushes submit` and `rushes jobs` on a real server."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from client_support import lora, work
from rushes import Client
from rushes.cli import main as cli
from rushes.wire.jobs import DRAFT_THRESHOLD
from rushes.wire.results import JobState
from support import wait_until

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, redis_url: str) -> Run:
    """Runs the command line against the server; returns exit code, output and errors."""
    monkeypatch.setenv("RUSHES_REDIS_URL", redis_url)

    def call(*arguments: str) -> tuple[int, str, str]:
        code = cli.main(list(arguments))
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture
def flags(tmp_path: Path) -> list[str]:
    (tmp_path / "prompts.txt").write_text("a red ball --d 1\ntwo cats --d 2\n")
    return [
        *("submit", "--architecture", "wan2.1-t2v", "--rushes_model", "/models/tiny", "--rushes_run", "mine"),
        *("--sample_prompts", str(tmp_path / "prompts.txt"), "--output_dir", str(tmp_path)),
    ]


def test_a_checkpoint_is_queued_and_stays_where_it_is(
    run: Run, flags: list[str], tmp_path: Path, redis_url: str
) -> None:
    path = lora(tmp_path)
    code, out, _ = run(*flags, "--weights", str(path), "--step", "10", "--epoch", "1")
    assert code == 0
    assert out == "2 samples queued for mine; `rushes jobs list --run mine` shows them\n"
    jobs = [record.job for record in Client(redis_url).list()]
    assert [(job.step, job.epoch, job.checkpoint and job.checkpoint.path) for job in jobs if job] == [
        (10, 1, str(path))
    ] * 2
    work(redis_url)
    assert path.exists()


@contextmanager
def worker(url: str, state: JobState = JobState.DONE) -> Iterator[None]:
    """Ends two samples, in the background, as soon as they are queued."""
    client = Client(url)

    def wait_and_work() -> None:
        wait_until(lambda: len(client.list(state="queued")) == 2, 20, "two samples")
        work(url, state)

    thread = threading.Thread(target=wait_and_work)
    thread.start()
    yield
    thread.join()
    client.close()


def test_waiting_prints_the_files(run: Run, flags: list[str], redis_url: str) -> None:
    with worker(redis_url):
        code, out, err = run(*flags, "--wait", "--timeout", "30")
    assert (code, out) == (0, "/x.png\n/x.png\n")
    assert "2/2 done" in err


def test_a_sample_that_fails_is_exit_code_1_with_its_reason(run: Run, flags: list[str], redis_url: str) -> None:
    with worker(redis_url, JobState.FAILED):
        code, out, _ = run(*flags, "--wait", "--timeout", "30")
    assert (code, out) == (1, "failed: it was not to be\n" * 2)


def test_waiting_gives_up_when_time_is_up(run: Run, flags: list[str]) -> None:
    code, out, err = run(*flags, "--wait", "--timeout", "0.1")
    assert (code, out) == (1, "")
    assert err == "rushes: 2 of 2 samples have not ended after 0.1 s\n"


def test_a_wrong_prompt_queues_nothing_and_names_its_line(
    run: Run, flags: list[str], tmp_path: Path, redis_url: str
) -> None:
    (tmp_path / "prompts.txt").write_text("fine\nsmall --w 4\n")
    code, _, err = run(*flags)
    assert code == 1
    assert f"{tmp_path}/prompts.txt:2: --w 4 is too small" in err
    assert Client(redis_url).ids() == []


def test_jobs_are_listed_for_people_and_for_programs(run: Run, flags: list[str], redis_url: str) -> None:
    assert run("jobs", "list") == (0, "no samples\n", "")
    run(*flags)
    code, out, _ = run("jobs", "list")
    assert code == 0
    assert out.splitlines()[0].split() == ["id", "state", "when", "step", "run", "prompt"]
    assert [line.split()[-2:] for line in out.splitlines()[1:]] == [["two", "cats"], ["red", "ball"]]
    _, out, _ = run("jobs", "list", "--json", "--run", "mine", "--state", "queued", "--limit", "1")
    assert json.loads(out)["job"]["prompt"]["prompt"] == "two cats"
    work(redis_url, JobState.FAILED)
    assert "<- it was not to be" in run("jobs", "list", "--state", "failed")[1]


def test_a_sample_is_shown_cancelled_and_tried_again_by_the_beginning_of_its_id(
    run: Run, flags: list[str], redis_url: str
) -> None:
    run(*flags)
    first, second = Client(redis_url).ids()
    assert json.loads(run("jobs", "show", first[:12])[1])["id"] == first
    assert run("jobs", "cancel", first[:12], second) == (0, f"{first[:10]}  cancelled\n{second[:10]}  cancelled\n", "")
    assert run("jobs", "retry", first[:12]) == (0, f"{first[:10]}  queued\n", "")
    assert len(work(redis_url)) == 1


@pytest.mark.parametrize("action", ["show", "cancel", "retry"])
def test_an_id_that_fits_none_or_many_is_told_so(run: Run, flags: list[str], action: str) -> None:
    run(*flags)
    for beginning, count in (("zzz", 0), ("", 2)):
        code, out, err = run("jobs", action, beginning)
        assert (code, out) == (1, "")
        assert err.startswith(f"rushes: {count} samples have an id that begins with {beginning}")


@pytest.mark.parametrize(("given", "draft"), [((), None), (("--draft",), DRAFT_THRESHOLD), (("--draft", "0.2"), 0.2)])
def test_drafts_are_made_where_they_are_asked_for(
    run: Run, flags: list[str], redis_url: str, given: tuple[str, ...], draft: float | None
) -> None:
    assert run(*flags, *given)[0] == 0
    assert {record.job and record.job.draft for record in Client(redis_url).list()} == {draft}


def test_a_family_that_cannot_be_drafted_queues_nothing(run: Run, flags: list[str], redis_url: str) -> None:
    code, _, err = run(*[flag.replace("wan2.1-t2v", "z-image") for flag in flags], "--draft")
    assert code == 1
    assert "z-image cannot be drafted" in err
    assert Client(redis_url).list() == []
