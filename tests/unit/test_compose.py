"""The compose file and the images, checked without a Docker engine."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from compose_spec import PyCompose

import rushes
from rushes.cli import main as cli
from rushes_service.settings import Settings

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "docker-compose.yml"
DOCKERFILES = sorted((ROOT / "docker").glob("*.Dockerfile"))
VARIABLE = re.compile(r"\$\{(\w+)(?::([-?])([^}]*))?\}")
ENVIRONMENT = {"RUSHES_TOKEN": "secret", "TRAIN_DIR": "/data/train", "MODELS_DIR": "/data/models"}
GPU_WORKERS = ("worker-0", "worker-1", "worker-2", "worker-3")
WORKERS = (*GPU_WORKERS, "worker-cpu")


def interpolated(environment: dict[str, str]) -> str:
    """The compose file with its variables filled in as `docker compose` does."""

    def value(match: re.Match[str]) -> str:
        name, operator, operand = match.groups()
        if environment.get(name):
            return environment[name]
        if operator == "?":
            raise KeyError(operand)
        return operand or ""

    text = "\n".join(line for line in COMPOSE.read_text().splitlines() if not line.lstrip().startswith("#"))
    return VARIABLE.sub(value, text)


def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(interpolated(ENVIRONMENT))
    return loaded


def services() -> dict[str, Any]:
    found: dict[str, Any] = compose()["services"]
    return found


def instruction(dockerfile: Path, name: str) -> list[str]:
    """The words of an instruction in its JSON form."""
    line = next(line for line in dockerfile.read_text().splitlines() if line.startswith(f"{name} ["))
    words: list[str] = json.loads(line.removeprefix(name))
    return words


def test_the_file_follows_the_compose_specification() -> None:
    merged = yaml.safe_dump({key: value for key, value in compose().items() if not key.startswith("x-")})
    spec = PyCompose.from_yaml(merged).to_spec()
    assert spec.services is not None
    assert set(spec.services) == {"redis", "api", *WORKERS}


def test_named_volumes_are_declared_and_used() -> None:
    volumes = [volume for service in services().values() for volume in service.get("volumes", ())]
    named = {volume.split(":")[0] for volume in volumes if isinstance(volume, str)}
    assert {name for name in named if not name.startswith("/")} == set(compose()["volumes"])


@pytest.mark.parametrize("variable", ["RUSHES_TOKEN", "TRAIN_DIR", "MODELS_DIR"])
def test_what_has_no_sensible_default_must_be_set(variable: str) -> None:
    with pytest.raises(KeyError, match=variable):
        interpolated({**ENVIRONMENT, variable: ""})


def test_the_example_environment_names_every_variable_and_no_other() -> None:
    named = set(re.findall(r"^(\w+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))
    read_by_compose = {"COMPOSE_PROFILES"}
    assert named == {match[1] for match in VARIABLE.finditer(COMPOSE.read_text())} | read_by_compose


def test_redis_keeps_what_it_is_given_and_is_not_open_to_the_network() -> None:
    redis = services()["redis"]
    options = dict(zip(redis["command"][1::2], redis["command"][2::2], strict=True))
    assert options["--appendonly"] == "yes"
    assert options["--appendfsync"] == "everysec"
    assert options["--maxmemory-policy"] == "noeviction"
    assert "redis:/data" in redis["volumes"]
    assert all(port.startswith("127.0.0.1:") for port in redis["ports"])


def test_the_api_needs_a_token_and_is_published_on_loopback_by_default() -> None:
    api = services()["api"]
    assert api["environment"]["RUSHES_TOKEN"] == "secret"
    assert all(port.startswith("127.0.0.1:") for port in api["ports"])
    assert "healthcheck" in api


def test_each_worker_has_one_gpu_of_its_own() -> None:
    reserved = []
    for name in GPU_WORKERS:
        (device,) = services()[name]["deploy"]["resources"]["reservations"]["devices"]
        assert device["capabilities"] == ["gpu"]
        (device_id,) = device["device_ids"]
        reserved.append(device_id)
    assert len(set(reserved)) == len(GPU_WORKERS)
    assert "deploy" not in services()["worker-cpu"]


def test_each_gpu_has_a_profile_and_the_rest_always_runs() -> None:
    profiles = {name: service.get("profiles") for name, service in services().items()}
    gpus = {name: [name.replace("worker-", "gpu")] for name in GPU_WORKERS}
    assert profiles == {"redis": None, "api": None, **gpus, "worker-cpu": ["cpu"]}
    chosen = re.search(r"^COMPOSE_PROFILES=(.+)$", (ROOT / ".env.example").read_text(), re.MULTILINE)
    assert chosen
    assert all([profile] in profiles.values() for profile in chosen[1].split(","))


@pytest.mark.parametrize("name", ["redis", "api", *WORKERS])
def test_every_service_says_whether_it_is_well(name: str) -> None:
    kind, *command = services()[name]["healthcheck"]["test"]
    assert kind in ("CMD", "CMD-SHELL")
    if command[0] == "rushes":
        assert cli.parse(command[1:]).run.__module__ == "rushes.cli.workers"


@pytest.mark.parametrize("name", ["api", *WORKERS])
def test_our_services_run_confined_wait_for_redis_and_come_back(name: str) -> None:
    service = services()[name]
    assert service["restart"] == "unless-stopped"
    assert service["user"] == "1000:1000"
    assert service["cap_drop"] == ["ALL"]
    assert service["depends_on"]["redis"]["condition"] == "service_healthy"
    assert service["environment"]["RUSHES_REDIS_URL"] == "redis://redis:6379/0"
    assert (ROOT / service["build"]["dockerfile"]).is_file()


def binds(name: str) -> list[dict[str, Any]]:
    """The directories of the host that a service sees."""
    return [volume for volume in services()[name]["volumes"] if isinstance(volume, dict)]


@pytest.mark.parametrize("name", ["api", *WORKERS])
def test_files_have_the_same_path_inside_and_outside(name: str) -> None:
    assert {bind["source"] for bind in binds(name)} == {"/data/train", "/data/models"}
    assert all(bind["source"] == bind["target"] for bind in binds(name))


@pytest.mark.parametrize("name", ["api", *WORKERS])
def test_who_writes_below_the_training_directory_may(name: str) -> None:
    # Workers write samples, the API keeps uploads.
    assert [bind["source"] for bind in binds(name) if bind.get("read_only")] == ["/data/models"]


@pytest.mark.parametrize("name", ["api", *WORKERS])
def test_a_mistyped_directory_is_an_error_and_not_made_as_root(name: str) -> None:
    short = [volume for volume in services()[name]["volumes"] if isinstance(volume, str)]
    assert not [volume for volume in short if volume.startswith(("/", ".", "~"))]
    assert all(bind["bind"] == {"create_host_path": False} for bind in binds(name))


def test_no_two_services_build_an_image_of_one_name() -> None:
    names = [service.get("image", name) for name, service in services().items() if "build" in service]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("name", ["redis", "api", *WORKERS])
def test_the_logs_of_a_service_have_a_limit(name: str) -> None:
    assert services()[name]["logging"]["options"].keys() == {"max-size", "max-file"}


@pytest.mark.parametrize("name", ["api", *WORKERS])
def test_a_file_beside_the_compose_file_sets_what_it_does_not(name: str) -> None:
    assert services()[name]["env_file"] == [{"path": "rushes.env", "required": False}]
    assert "rushes.env" in (ROOT / ".gitignore").read_text().splitlines()


@pytest.mark.parametrize("name", WORKERS)
def test_the_doctor_of_a_worker_looks_at_a_directory_that_it_may_write(name: str) -> None:
    assert services()[name]["working_dir"] == "/data/train"


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.stem)
def test_a_build_needs_no_frontend_from_a_hub_and_keeps_the_dependencies_apart(dockerfile: Path) -> None:
    text = dockerfile.read_text()
    assert "syntax=" not in text
    dependencies, source = text.index("--constraint constraints.txt"), text.index("COPY service service")
    assert dependencies < source
    assert "pip install --no-deps --no-build-isolation ." in text[source:]


@pytest.mark.parametrize("name", ["redis", "api", *WORKERS])
def test_base_images_can_be_pinned_and_are_the_same_without(name: str) -> None:
    pinned = "registry.example/base@sha256:0123"
    for variable, usual in (("PYTHON_IMAGE", "python:3.11-slim-bookworm"), ("VALKEY_IMAGE", "valkey/valkey:9-alpine")):
        of_service = name == "redis" if variable == "VALKEY_IMAGE" else name != "redis"
        for given, expected in (("", usual), (pinned, pinned)):
            loaded = yaml.safe_load(interpolated({**ENVIRONMENT, variable: given}))["services"][name]
            found = loaded["image"] if name == "redis" else loaded["build"]["args"]["PYTHON_IMAGE"]
            assert found == expected or not of_service
        assert f"{variable}={usual}" in (ROOT / ".env.example").read_text().splitlines()


@pytest.mark.parametrize("name", WORKERS)
def test_a_worker_is_built_from_the_target_for_its_device(name: str) -> None:
    target, command = services()[name]["build"]["target"], services()[name]["command"]
    assert (target, command[-1]) == (("cpu", "cpu") if name == "worker-cpu" else ("cuda", "cuda:0"))
    text = (ROOT / "docker" / "worker.Dockerfile").read_text()
    assert re.findall(r"^FROM \S+ AS (\w+)$", text, re.MULTILINE) == [
        "base",
        "cpu",
        "cuda",
    ]  # cuda: what a plain build makes


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.stem)
def test_an_image_says_which_version_it_is(dockerfile: Path) -> None:
    versions = re.findall(r'image\.version="(.+?)"', dockerfile.read_text())
    assert set(versions) == {rushes.__version__}
    assert len(versions) == dockerfile.read_text().count("ENTRYPOINT")


def test_where_there_is_no_engine_the_run_of_the_containers_says_so(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "scripts" / "containers"), "--work", str(tmp_path / "work")]
    done = subprocess.run(command, env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "there is no command `docker` here" in done.stderr
    assert "--bare" in done.stderr


def test_a_worker_is_given_its_grace_before_it_is_killed() -> None:
    for name in WORKERS:
        stop_s = int(services()[name]["stop_grace_period"].removesuffix("s"))
        assert stop_s >= Settings.model_fields["grace_s"].default + 15


@pytest.mark.parametrize("name", ["api", *WORKERS])
def test_every_command_is_one_that_rushes_understands(name: str) -> None:
    args = cli.parse(services()[name]["command"])
    assert args.run.__module__ == f"rushes_service.cli.{name.split('-')[0]}"


@pytest.mark.parametrize("name", ["api", *WORKERS])
def test_every_variable_given_to_a_service_is_a_setting(name: str) -> None:
    given = {key for key in services()[name]["environment"] if key.startswith("RUSHES_")}
    assert given <= {f"RUSHES_{field.upper()}" for field in Settings.model_fields}


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.stem)
def test_an_image_runs_rushes_as_somebody_who_is_not_root(dockerfile: Path) -> None:
    text = dockerfile.read_text()
    assert instruction(dockerfile, "ENTRYPOINT") == ["rushes"]
    cli.parse(instruction(dockerfile, "CMD"))
    assert re.search(r"^USER 1000:1000$", text, re.MULTILINE)
    assert "chmod 1777 /home/rushes" in text  # RUSHES_UID may be anybody
    assert "--constraint constraints.txt" in text


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.stem)
def test_what_an_image_copies_is_there_and_sent_to_the_builder(dockerfile: Path) -> None:
    sent = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for line in re.findall(r"^COPY (.+)$", dockerfile.read_text(), re.MULTILINE):
        *sources, _ = line.split()
        for source in sources:
            assert source in sent
            assert (ROOT / source).exists()


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.stem)
def test_hadolint_has_nothing_to_say(dockerfile: Path) -> None:
    hadolint = Path(sys.executable).parent / "hadolint"
    done = subprocess.run([hadolint, str(dockerfile)], capture_output=True, text=True, check=False)
    assert done.stdout == ""
    assert done.returncode == 0
