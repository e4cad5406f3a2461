"""`rushes track` on a real server: results of a run in TensorBoard, once each."""

from __future__ import annotations

from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from client_support import AWAY
from queue_support import make_job
from rushes import Client, SampleResult
from rushes.cli import main as cli
from rushes.errors import OutputError
from rushes.trackers.following import Destination
from rushes.wire.results import JobState
from rushes_service.queue import Queue
from tracker_support import picture


def make_samples(url: str, directory: Path, *steps: int) -> None:
    """Queue and end samples of the run `mine`."""
    client, queue = Client(url), Queue(url, worker="w", lease_s=60)
    for step in steps:
        client.submit([make_job("prompt 0", step=step, run="mine")])
        held = queue.reserve()
        assert held
        made = {**dict(picture(directory, step)), "id": held.job().id}
        queue.finish(held, JobState.DONE, SampleResult(**made))
    queue.redis.close()
    client.close()


@pytest.fixture
def track(tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A command line that logs run `mine` into `logs`."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("RUSHES_REDIS_URL", redis_url)
    return ["track", "--run", "mine", "--tensorboard", str(tmp_path / "logs"), "--once"]


def test_each_result_is_logged_once_at_its_step_over_restarts(
    track: list[str], tmp_path: Path, redis_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    make_samples(redis_url, tmp_path, 30, 10)
    assert cli.main(track) == 0
    assert "mine: 2 samples to TensorBoard" in capsys.readouterr().out
    make_samples(redis_url, tmp_path, 20)
    assert cli.main(track) == cli.main(track) == 0
    assert capsys.readouterr().out.count("samples to TensorBoard") == 0
    reader = EventAccumulator(str(tmp_path / "logs" / "mine"), size_guidance={"tensors": 0})
    reader.Reload()
    shown = [(event.step, event.tensor_proto.string_val[2]) for event in reader.Tensors("sample_0")]
    assert shown == [(step, (tmp_path / f"{step}-0.png").read_bytes()) for step in (10, 20, 30)]


def test_a_tracker_that_fails_gets_the_same_result_again(tmp_path: Path) -> None:
    said: list[str] = []
    seen: list[int] = []

    class Unsteady:
        def log(self, result: SampleResult) -> None:
            seen.append(result.step)
            if len(seen) < 3:
                raise OutputError("its server is away")

        def close(self) -> None: ...

    destination = Destination("it", Unsteady(), tmp_path / "memory.ids")
    destination.take([picture(tmp_path, 10), picture(tmp_path, 20)])
    assert [destination.log(said.append) for _ in range(2)] == [0, 2]
    assert (seen, len(said)) == ([10, 20, 10, 20], 1)
    again = Destination("it", Unsteady(), tmp_path / "memory.ids")
    again.take([picture(tmp_path, 10), picture(tmp_path, 20)])
    assert again.waiting == 0


def test_a_result_that_a_tracker_cannot_read_holds_up_no_other(tmp_path: Path) -> None:
    said: list[str] = []
    seen: list[int] = []

    class Choosy:
        def log(self, result: SampleResult) -> None:
            if result.step == 10:
                raise OutputError("not a clip")
            seen.append(result.step)

        def close(self) -> None: ...

    destination = Destination("it", Choosy(), tmp_path / "memory.ids")
    destination.take([picture(tmp_path, step) for step in (10, 20, 30)])
    assert [destination.log(said.append) for _ in range(2)] == [2, 0]
    assert (seen, len(said), destination.waiting) == ([20, 30], 1, 1)


def test_a_memory_that_cannot_be_written_ends_nothing(tmp_path: Path) -> None:
    said: list[str] = []

    class Willing:
        def log(self, result: SampleResult) -> None: ...

        def close(self) -> None: ...

    destination = Destination("it", Willing(), tmp_path / "state" / "memory.ids")
    (tmp_path / "state").rmdir()
    destination.take([picture(tmp_path, 10), picture(tmp_path, 20)])
    assert destination.log(said.append) == 2
    assert [f"{tmp_path / 'state' / 'memory.ids'}: No such file" in text for text in said] == [True, True]


def test_mistakes_are_told(track: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["track", "--run", "mine"]) == 2
    assert "which tracker?" in capsys.readouterr().err
    assert cli.main([*track, "--redis-url", AWAY]) == 1
    assert "cannot be reached" in capsys.readouterr().out
