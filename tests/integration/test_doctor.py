"""`rushes doctor`: each thing that can be wrong is found, named, and comes with a remedy."""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
import torch

from rushes.cli import main as cli
from rushes_service.cli import doctor
from rushes_service.doctor import files, redis_server, software
from rushes_service.doctor.report import Finding, Mark
from rushes_service.processes import gpus
from rushes_service.processes.embedded_redis import EmbeddedRedis
from rushes_service.processes.gpus import GpuReport


@pytest.fixture(autouse=True)
def directories_of_its_own(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUSHES_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.chdir(tmp_path_factory.mktemp("output"))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedRedis]:
    with EmbeddedRedis(tmp_path_factory.mktemp("state"), port=0) as running:
        yield running


@contextlib.contextmanager
def configured(server: EmbeddedRedis, name: str, value: str) -> Iterator[None]:
    """The server with one setting changed."""
    with redis.Redis.from_url(server.url, decode_responses=True) as client:
        before = client.config_get(name)[name]
        client.config_set(name, value)
        yield
        client.config_set(name, before)


def marks(findings: Iterator[Finding]) -> dict[str, Mark]:
    return {finding.name: finding.mark for finding in findings}


def tiny_model(directory: Path) -> Path:
    """A diffusers directory as the doctor sees one: an index, and files where it says."""
    index = {"_class_name": "WanPipeline", "transformer": ["diffusers", "X"], "scheduler": ["diffusers", "Y"]}
    index["image_encoder"] = [None, None]  # type: ignore[list-item]
    for component in ("transformer", "scheduler"):
        (directory / component).mkdir(parents=True)
        (directory / component / "config.json").write_text("{}")
    (directory / "model_index.json").write_text(json.dumps(index))
    (directory / "transformer" / "model-00001-of-00001.safetensors").write_bytes(bytes(10))
    shards = {"weight_map": {"a": "model-00001-of-00001.safetensors"}}
    (directory / "transformer" / "model.safetensors.index.json").write_text(json.dumps(shards))
    return directory


def test_the_bundled_server_is_all_well(server: EmbeddedRedis) -> None:
    assert set(marks(redis_server.check_redis(server.url)).values()) == {Mark.OK}


def test_an_evicting_redis_fails(server: EmbeddedRedis) -> None:
    with configured(server, "maxmemory-policy", "allkeys-lru"):
        found = marks(redis_server.check_redis(server.url))
    assert found["Redis eviction"] is Mark.FAIL


def test_a_forgetful_redis_is_a_warning(server: EmbeddedRedis) -> None:
    with configured(server, "appendonly", "no"):
        found = marks(redis_server.check_redis(server.url))
    assert found["Redis durability"] is Mark.WARN


@pytest.mark.parametrize("url", ["redis://127.0.0.1:1/0", "http://127.0.0.1/"])
def test_a_redis_that_does_not_answer_fails_with_a_remedy(url: str) -> None:
    (finding,) = redis_server.check_redis(url)
    assert finding.mark is Mark.FAIL
    assert finding.advice is not None
    assert "rushes up" in finding.advice


@pytest.mark.parametrize(
    ("version", "mark"), [("6.0.16", Mark.FAIL), ("6.2.0", Mark.OK), ("7.2.4", Mark.OK), ("10.0", Mark.OK)]
)
def test_redis_older_than_6_2_fails(version: str, mark: Mark) -> None:
    assert redis_server.check_version("redis://x", {"redis_version": version}).mark is mark


def test_a_complete_model_is_all_well(tmp_path: Path) -> None:
    assert set(marks(files.check_model(str(tiny_model(tmp_path)))).values()) == {Mark.OK}


@pytest.mark.parametrize(
    ("broken", "finding"),
    [
        ("transformer/model-00001-of-00001.safetensors", "model transformer"),
        ("scheduler/config.json", "model scheduler"),
        ("model_index.json", "model"),
    ],
)
def test_a_model_without_one_of_its_files_fails_by_name(tmp_path: Path, broken: str, finding: str) -> None:
    (tiny_model(tmp_path) / broken).unlink()
    assert marks(files.check_model(str(tmp_path)))[finding] is Mark.FAIL


def test_a_model_whose_weight_index_is_cut_short_fails(tmp_path: Path) -> None:
    (tiny_model(tmp_path) / "transformer" / "model.safetensors.index.json").write_text('{"weight_map": {"a"')
    assert marks(files.check_model(str(tmp_path)))["model transformer"] is Mark.FAIL


def test_a_hub_id_is_only_noted_and_a_wrong_path_fails(tmp_path: Path) -> None:
    assert marks(files.check_model("Wan-AI/Wan2.1-T2V-1.3B-Diffusers")) == {"model": Mark.WARN}
    assert marks(files.check_model(str(tmp_path / "nowhere"))) == {"model": Mark.FAIL}
    assert marks(files.check_model("./nowhere/model")) == {"model": Mark.FAIL}


def test_a_directory_that_cannot_be_made_fails(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert marks(files.check_directory("output", tmp_path / "file" / "below")) == {"output": Mark.FAIL}
    assert marks(files.check_directory("output", tmp_path / "new")) != {"output": Mark.FAIL}


def test_an_unknown_architecture_fails_with_the_known_ones() -> None:
    finding = files.check_architecture("wan9")
    assert finding.mark is Mark.FAIL
    assert "wan2.1-t2v" in finding.found
    assert files.check_architecture("wan2.1-t2v").mark is Mark.OK


def test_a_file_without_its_family_is_not_passed_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", "--vae", str(tmp_path / "vae.safetensors")]) == 2
    assert "--vae is checked against a model family: name it with --architecture" in capsys.readouterr().err


def test_an_ffmpeg_that_cannot_write_h264_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert software.check_ffmpeg().mark is Mark.OK
    poor = tmp_path / "ffmpeg"
    poor.write_text("#!/bin/sh\necho ' V..... mpeg4'\n")
    poor.chmod(0o755)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(poor))
    finding = software.check_ffmpeg()
    assert finding.mark is Mark.FAIL
    assert "libx264" in finding.found


@pytest.mark.parametrize(
    ("version", "numbers"), [("2.13.0+cpu", (2, 13, 0)), ("5.0rc1", (5, 0)), ("0.42.1.dev0", (0, 42, 1)), ("?", ())]
)
def test_versions_are_compared_by_their_numbers(version: str, numbers: tuple[int, ...]) -> None:
    assert software.release(version) == numbers


@pytest.mark.parametrize(
    ("pytorch", "cuda", "cudnn", "package"),
    [
        ("2.8.0+cu128", "12.8", 91002, "nvidia-cudnn-cu12"),
        ("2.9.1+cu130", "13.0", 91300, "nvidia-cudnn-cu13"),
        ("2.9.1+cu128", "12.8", 91499, "nvidia-cudnn-cu12"),
    ],
)
def test_a_pytorch_with_broken_3d_convolutions_is_a_warning(pytorch: str, cuda: str, cudnn: int, package: str) -> None:
    (finding,) = software.check_convolutions(GpuReport(torch=pytorch, cuda=cuda, cudnn=cudnn))
    assert finding.mark is Mark.WARN
    assert f"PyTorch {pytorch} with cuDNN 9." in finding.found
    assert finding.advice is not None
    assert "torch>=2.10" in finding.advice
    assert f"{package}>=9.15" in finding.advice


@pytest.mark.parametrize(
    ("pytorch", "cuda", "cudnn"),
    [
        ("2.7.1+cu126", "12.6", 90501),
        ("2.9.1+cu128", "12.8", 91500),
        ("2.10.0+cu128", "12.8", 91002),
        ("2.8.0+cpu", None, None),
        ("2.8.0+rocm6.4", "6.4", None),
    ],
)
def test_other_pytorches_are_not_suspected(pytorch: str, cuda: str | None, cudnn: int | None) -> None:
    assert list(software.check_convolutions(GpuReport(torch=pytorch, cuda=cuda, cudnn=cudnn))) == []


def test_the_versions_are_those_of_the_pytorch_that_is_installed() -> None:
    report = gpus.ask()
    assert (report.torch, report.cudnn) == (torch.__version__, torch.backends.cudnn.version())


def test_the_doctor_says_it_beside_the_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = gpus.Gpu("cuda:0", "NVIDIA H200", memory_bytes=140 << 30, free_bytes=139 << 30)
    report = GpuReport(torch="2.8.0+cu128", cuda="12.8", cudnn=91002, gpus=(gpu,))
    monkeypatch.setattr(gpus, "ask", lambda: report)
    assert marks(software.check_gpus()) == {"3D convolutions": Mark.WARN, "cuda:0": Mark.OK}


def test_json_tells_a_script_what_a_person_reads(server: EmbeddedRedis, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_doctor("--json", "--redis-url", server.url) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] is True
    assert {finding["mark"] for finding in report["findings"]} <= {"ok", "warn"}


def test_one_failure_makes_the_exit_code_1_and_shows_the_remedy(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_doctor("--redis-url", "redis://127.0.0.1:1/0") == 1
    printed = capsys.readouterr().out
    assert "fail  Redis:" in printed
    assert "-> `rushes up` starts one" in printed
    assert "1 thing to mend" in printed


def test_the_asking_process_never_imports_torch() -> None:
    program = (
        "import sys; from rushes.cli.main import main; main(['doctor', '--json']); sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def run_doctor(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    doctor.add_arguments(parser)
    return doctor.run(parser.parse_args(list(arguments)))


def test_an_installation_of_the_api_alone_is_none_to_mend(
    server: EmbeddedRedis, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    version = software.installed
    monkeypatch.setattr(software, "installed", lambda name: None if name in software.OF_SAMPLING else version(name))
    assert cli.main(["doctor", "--redis-url", server.url]) == 0
    told = capsys.readouterr().out
    assert "the API alone" in told
    assert "ready to serve" in told
    assert not [name for name in ("torch: not", "GPU", "output directory") if name in told]


def test_an_installation_that_lacks_torch_alone_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    version = software.installed
    monkeypatch.setattr(software, "installed", lambda name: None if name == "torch" else version(name))
    assert marks(software.check_packages())["torch"] is Mark.FAIL


@pytest.mark.parametrize("flag", ["--output_dir", "--output-dir"])
def test_the_output_directory_is_named_as_everywhere(flag: str, tmp_path: Path) -> None:
    assert cli.parse(["doctor", flag, str(tmp_path)]).output_dir == tmp_path
