"""`pip install rushes`, without the service: redis and pydantic are all it takes in a trainer's environment."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from client_support import spooled
from rushes import Client
from support import wait_until

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.timeout(1200)

TRAINER = """
import sys
from pathlib import Path
from rushes import Cadence, ModelSpec, Run, TrainingSampler, load_prompts
directory, url = Path(sys.argv[1]), sys.argv[2]
assert [prompt.width for prompt in load_prompts(directory / "prompts.txt")] == [64, None]
run = Run(name="run", model=ModelSpec(architecture="wan2.1-t2v", model="/models/tiny"), output_dir=str(directory))
sampler = TrainingSampler(run, directory / "prompts.txt", Cadence(at_first=True), url=url)
assert sampler.due(step=0)
for argument in sys.argv[3:]:
    sampler.submit(step=int(argument))
sampler.close()
heavy = {"torch", "diffusers", "transformers", "numpy", "safetensors", "fastapi", "rushes_service"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment in which only the client's own dependencies are installed."""
    directory = tmp_path_factory.mktemp("minimal")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(directory)], check=True)
    python = directory / "bin" / "python"
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(directory), str(ROOT))
    wheel = next(directory.glob("rushes-*.whl"))
    try:
        pip("--python", str(python), "install", "--constraint", str(ROOT / "constraints.txt"), str(wheel))
    except subprocess.CalledProcessError as error:
        pytest.skip(f"redis and pydantic cannot be installed here: {error.stderr[-300:]}")
    return python


def pip(*arguments: str) -> str:
    """What pip says. It is not part of the minimal environment: setting it up would take most of the time."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def installed(python: Path) -> set[str]:
    """Names of the packages of an environment."""
    listed = pip("--python", str(python), "list", "--format", "freeze")
    return {line.partition("==")[0].partition(" ")[0] for line in listed.splitlines()}


def test_the_client_needs_redis_and_pydantic_alone(python: Path) -> None:
    brought_along = {"annotated-types", "pydantic_core", "typing-inspection", "typing_extensions"}
    on_old_pythons = {"async-timeout", "tomli"}
    assert installed(python) - brought_along - on_old_pythons == {"rushes", "redis", "pydantic"}


def test_it_spools_without_redis_and_replays_when_there_is_one(python: Path, tmp_path: Path, redis_url: str) -> None:
    (tmp_path / "prompts.txt").write_text("a red ball --w 64\ntwo cats\n")

    def train(url: str, *steps: str) -> None:
        subprocess.run([str(python), "-c", TRAINER, str(tmp_path), url, *steps], check=True, timeout=240)

    train("redis://127.0.0.1:1/0", "0")
    assert len(spooled(tmp_path)) == 1
    train(redis_url, "10")
    client = Client(redis_url)
    wait_until(lambda: len(client.ids()) == 4, 10, "all samples")
    assert spooled(tmp_path) == []
    client.close()


@pytest.mark.parametrize("command", ["worker", "api", "up", "doctor", "demo"])
def test_a_command_of_the_service_says_how_to_install_it(python: Path, command: str) -> None:
    done = subprocess.run([str(python), "-m", "rushes", command], capture_output=True, text=True, timeout=240)
    assert done.returncode == 2
    assert done.stderr.startswith("rushes: this command needs the package ")
    assert "pip install 'rushes[service]'" in done.stderr


def test_prompts_are_checked_without_the_service(python: Path, tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text('[prompt]\n[[prompt.subset]]\nprompt = "a cat"\n')
    command = [str(python), "-m", "rushes", "prompts", str(tmp_path / "p.toml"), "--architecture", "wan2.1-t2v"]
    assert "1 prompts, all good" in subprocess.run(command, capture_output=True, text=True, check=True).stdout
