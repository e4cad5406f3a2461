"""Results in trackers: the right picture at the right step, whatever the order in which they come."""

from __future__ import annotations

import io
import json
import os
import random
import re
import resource
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rushes.errors import ConfigError
from rushes.trackers import MlflowTracker, TensorBoardTracker, Tracker, TrackioTracker
from rushes.trackers.base import needed
from tracker_support import clip, failed, picture

STEPS = list(range(10, 130, 10))

BLOCK_BYTES = 32 * 1024
CHUNK_HEADER_BYTES = 7
WANDB_HEADER_BYTES = 7


def images(logdir: Path, tag: str) -> list[tuple[int, bytes]]:
    """Step and encoded picture of a tag, as TensorBoard's own reader finds them."""
    reader = EventAccumulator(str(logdir), size_guidance={"tensors": 0})
    reader.Reload()
    return [(event.step, event.tensor_proto.string_val[2]) for event in reader.Tensors(tag)]


def test_tensorboard_has_the_right_picture_at_the_right_step_whatever_the_order(tmp_path: Path) -> None:
    results = [picture(tmp_path, step, index) for step in STEPS for index in (0, 1)]
    random.Random(1).shuffle(results)
    tracker: Tracker = TensorBoardTracker(tmp_path / "logs")
    for result in [failed(5), *results]:
        tracker.log(result)
    tracker.close()
    for index in (0, 1):
        shown = images(tmp_path / "logs", f"sample_{index}")
        assert shown == [(step, (tmp_path / f"{step}-{index}.png").read_bytes()) for step in STEPS]


def test_tensorboard_shows_a_clip_as_an_animation_of_as_many_frames(tmp_path: Path) -> None:
    tracker = TensorBoardTracker(tmp_path / "logs")
    tracker.log(clip(tmp_path, 20, frames=5))
    tracker.close()
    ((step, encoded),) = images(tmp_path / "logs", "sample_0")
    animation: Any = Image.open(io.BytesIO(encoded))
    assert (step, animation.format, animation.n_frames, animation.size) == (20, "GIF", 5, (16, 16))


def test_tensorboard_logs_nothing_twice_and_mends_a_file_that_was_cut_short(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    first = TensorBoardTracker(logs)
    with pytest.raises(ConfigError, match="another process logs samples there"):
        TensorBoardTracker(logs)
    for step in (20, 10, 30):
        first.log(picture(tmp_path, step))
    first.close()
    (file,) = logs.glob("*tfevents*")
    with file.open("ab") as torn:
        torn.write(b"\x09\0\0\0")
    second = TensorBoardTracker(logs)
    for step in (10, 20, 30, 25):
        second.log(picture(tmp_path, step))
    second.close()
    assert [step for step, _ in images(logs, "sample_0")] == [10, 20, 25, 30]
    assert len(list(logs.glob("*tfevents*"))) == 1


def test_tensorboard_shows_all_after_a_disk_that_was_full(tmp_path: Path) -> None:
    tracker = TensorBoardTracker(tmp_path / "logs")
    tracker.log(picture(tmp_path, 10))
    (file,) = (tmp_path / "logs").glob("*tfevents*")
    second = picture(tmp_path, 20)
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (file.stat().st_size + 50, unlimited[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            tracker.log(second)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    for result in (second, picture(tmp_path, 30)):
        tracker.log(result)
    tracker.close()
    assert [step for step, _ in images(tmp_path / "logs", "sample_0")] == [10, 20, 30]


def test_a_picture_that_is_elsewhere_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    result = picture(tmp_path, 10)
    Path(str(result.path)).unlink()
    tracker = TensorBoardTracker(tmp_path / "logs")
    tracker.log(result)
    tracker.close()
    assert "is not on this machine" in caplog.text


def test_a_package_that_is_missing_is_named_with_how_to_install_it() -> None:
    with pytest.raises(ConfigError, match="needs the package no_such_package: pip install 'x'"):
        needed("no_such_package", "'x'")


WANDB_TRAINER = """
import json, sys
from pathlib import Path
import wandb
from rushes import SampleResult
from rushes.trackers import WandbTracker

results = {int(step): SampleResult.decode(raw) for step, raw in json.load(open(sys.argv[1])).items()}
run = wandb.init(project="p", mode="offline", dir=sys.argv[2])
tracker = WandbTracker(run)
arriving = {7: [20], 8: [10, 30], 9: [40]}  # trainer's step -> steps whose samples arrive
for step in range(1, 13):
    run.log({"loss": float(step)}, step=step)
    run.log({"lr": 1.0}, step=step)
    for sampled in arriving.get(step, ()):
        tracker.log(results[sampled])
    tracker.flush()
tracker.close()
run.finish()
"""


def wandb_rows(directory: Path) -> list[dict[str, Any]]:
    """Rows of the history in an offline run's file."""
    from wandb.proto import wandb_internal_pb2 as proto

    (file,) = directory.rglob("*.wandb")
    rows = []
    for data in leveldb_records(file.read_bytes()):
        record = proto.Record.FromString(data)
        if record.WhichOneof("record_type") == "history":
            items = record.history.item
            rows.append({item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items})
    return rows


def leveldb_records(log: bytes) -> Iterator[bytes]:
    """Records of LevelDB's log format, in which W&B writes: blocks of 32 KiB, records cut where a block ends."""
    position, record = WANDB_HEADER_BYTES, b""
    while position + CHUNK_HEADER_BYTES <= len(log):
        if -position % BLOCK_BYTES < CHUNK_HEADER_BYTES and position % BLOCK_BYTES:
            position += -position % BLOCK_BYTES  # no header fits in: padding
            continue
        length, kind = struct.unpack_from("<HB", log, position + 4)
        start = position + CHUNK_HEADER_BYTES
        record += log[start : start + length]
        position = start + length
        if kind in (1, 4):  # the whole record, or its last part
            yield record
            record = b""


def test_wandb_keeps_every_value_of_the_trainer_and_every_sample_at_its_step(tmp_path: Path) -> None:
    results = {step: picture(tmp_path, step).encode() for step in (10, 20, 30, 40)}
    (tmp_path / "results.json").write_text(json.dumps(results))
    environment = {**os.environ, "WANDB_SILENT": "true", "WANDB_MODE": "offline", "WANDB_DIR": str(tmp_path)}
    command = [sys.executable, "-c", WANDB_TRAINER, str(tmp_path / "results.json"), str(tmp_path)]
    subprocess.run(command, env=environment, check=True, timeout=150)
    rows = wandb_rows(tmp_path)
    assert [row["loss"] for row in rows if "loss" in row] == [float(step) for step in range(1, 13)]
    assert sum("lr" in row for row in rows) == 12
    shown = {row["rushes/step"]: row["sample_0.path"] for row in rows if "rushes/step" in row}
    assert sorted(shown) == [10, 20, 30, 40]
    kept = {path.read_bytes(): path.name for path in tmp_path.rglob("media/images/*.png")}
    for step, path in shown.items():
        assert Path(path).name == kept[(tmp_path / f"{step}-0.png").read_bytes()]


def test_trackio_has_every_sample_at_its_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("trackio", reason="trackio is not installed; it wants an older pillow than the service")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    tracker = TrackioTracker.start("p", "mine")
    for result in (picture(tmp_path, 30), clip(tmp_path, 10), picture(tmp_path, 20)):
        tracker.log(result)
    tracker.close()
    from trackio.sqlite_storage import SQLiteStorage

    shown = {row["step"]: row["sample_0"] for row in SQLiteStorage.get_logs("p", "mine")}
    assert {step: value["_type"] for step, value in shown.items()} == {
        10: "trackio.video",
        20: "trackio.image",
        30: "trackio.image",
    }


def test_mlflow_has_every_sample_at_its_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow", reason="mlflow is not installed; it wants an older importlib_metadata")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # the one store that needs no database packages
    uri = (tmp_path / "mlflow").as_uri()
    for result in (picture(tmp_path, 30), clip(tmp_path, 10), picture(tmp_path, 20)):
        tracker = MlflowTracker.start(uri, "mine")
        tracker.log(result)
        tracker.close()
    artifacts = [item.path for item in tracker.client.list_artifacts(tracker.run_id, "images")]
    assert {int(re.split(r"[+%]", path)[2]) for path in artifacts} == {20, 30}
    (video,) = tracker.client.list_artifacts(tracker.run_id, "sample_0/step_00000010")
    assert video.path.endswith("10-0.mp4")
