"""The command line without a server: what is said, and with which exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rushes._terminal import printable
from rushes.cli import main as cli

COMMANDS = [[name] for name in (*cli.LIGHT, *cli.HEAVY)] + [["jobs", a] for a in ("list", "show", "cancel", "retry")]


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.txt"
    path.write_text("a red ball --w 63 --h 64 --d 3\ntwo cats --g 4\n")
    return path


def test_prompts_shows_what_is_asked_for(prompts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["prompts", str(prompts)]) == 0
    out = capsys.readouterr().out
    assert out.splitlines() == [
        "  0  a red ball",
        "     --w 63  --h 64  --d 3",
        "  1  two cats",
        "     --g 4.0",
        "2 prompts, all good",
    ]


def test_prompts_shows_what_a_family_makes_of_it(prompts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["prompts", str(prompts), "--architecture", "wan2.1-t2v"]) == 0
    out = capsys.readouterr().out
    assert "--w 48  --h 64  --f 1  --d 3  --s 20" in out
    assert "--d random" in out
    assert "warning: --w 63 rounded down to 48" in out
    assert "warning: --g is ignored by wan2.1-t2v" in out


def test_prompts_as_json(prompts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["prompts", str(prompts), "--json", "--architecture", "wan2.1-t2v"]) == 0
    first, second = json.loads(capsys.readouterr().out)
    assert (first["index"], first["line"], first["width"], first["seed"]) == (0, 1, 48, 3)
    assert second["seed"] == "random"
    assert second["warnings"] == ["--g is ignored by wan2.1-t2v"]


def test_a_wrong_prompt_is_exit_code_1_with_its_place(prompts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prompts.write_text("good\nbad --nope 1\nsmall --w 4\n")
    assert cli.main(["prompts", str(prompts), "--architecture", "wan2.1-t2v"]) == 1
    out, err = capsys.readouterr()
    assert f"{prompts}:2:5: unknown option --nope" in err
    assert f"{prompts}:3: --w 4 is too small" in err
    assert out.splitlines()[-1] == "3 prompts, 2 of them wrong"


def test_lenient_makes_it_a_warning(prompts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prompts.write_text("bad --nope 1\n")
    assert cli.main(["prompts", str(prompts), "--lenient"]) == 0
    assert "warning: column 5: unknown option --nope" in capsys.readouterr().out


def test_prompts_shows_dashes_that_are_none_and_lines_without_a_prompt(
    prompts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts.write_text("a cat \u2014w 512\n--w 64\nrock -n roll\n", encoding="utf-8")
    assert cli.main(["prompts", str(prompts)]) == 1
    out, err = capsys.readouterr()
    told = "'\u2014w' is not read as an option: em dash (U+2014) is not the plain hyphen; write a blank and --w"
    assert f"{prompts}:1:7: {told}" in err
    assert f"{prompts}:2:1: options without a prompt" in err
    assert "warning: column 6: '-n' is not read as an option" in out


def test_what_a_prompt_holds_does_not_steer_the_terminal(prompts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    steering = "red \x1b[31m \x07 bell \x9b2J clear \u202egnp.tac \u2028 line"
    lines = [steering, "b --w \x1b[2J", "c --i \x1b]0;title\x07.png", "d \u2014n \x1b[5m"]
    prompts.write_text("\n".join(lines), encoding="utf-8")
    assert cli.main(["prompts", str(prompts)]) == 1
    out, err = capsys.readouterr()
    assert r"red \x1b[31m \x07 bell \x9b2J clear \u202egnp.tac \u2028 line" in out
    assert all(character.isprintable() or character == "\n" for character in out + err)


@pytest.mark.parametrize("text", ["a cat", "großer Bär 🐻", "\U0001f468\u200d\U0001f469", "नमस्ते", ""])
def test_text_that_steers_nothing_is_printed_as_it_is(text: str) -> None:
    assert printable(text) == text


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["prompts", "absent.txt"], 1, "absent.txt: there is no such prompt file"),
        (["prompts", "absent.txt", "--architecture", "wan9"], 1, "unknown architecture 'wan9'; known: "),
        (["jobs", "list", "--redis-url", "redis://127.0.0.1:1/0"], 1, "127.0.0.1:1/0 cannot be reached"),
        (["jobs", "show", "abc", "--redis-url", "redis://127.0.0.1:1/0"], 1, "`rushes up`"),
        (["jobs", "list", "--redis-url", "http://x"], 2, "is not a Redis URL"),
        (["jobs", "list", "--redis-url", "redis://:secret@host:port/0"], 2, "is not a Redis URL"),
        (["jobs", "purge"], 2, "say which records: --older-than DAYS"),
        (["jobs", "purge", "--older-than", "-7"], 2, "--older-than -7: must be 0 days or more"),
        (["submit", "--architecture", "wan2.1-t2v"], 2, "--sample_prompts FILE is needed"),
        (["watch", __file__, "--architecture", "wan2.1-t2v"], 2, "is a file; name the directory"),
    ],
)
def test_a_mistake_is_a_sentence_and_an_exit_code(
    arguments: list[str], code: int, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments) == code
    err = capsys.readouterr().err
    assert err.startswith("rushes: ")
    assert told in err
    assert "Traceback" not in err
    assert "secret" not in err


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--step", "-1"], "--step -1: must be 0 or more"),
        (["--epoch", "-1"], "--epoch -1: must be 0 or more"),
        (["--vae_chunk_size", "-5"], "--vae_chunk_size: Input should be greater than or equal to 1"),
        (["--weights", "absent.safetensors"], "absent.safetensors: there is no such checkpoint file"),
    ],
)
def test_submit_refuses_what_cannot_be(
    flags: list[str], told: str, prompts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["submit", "--architecture", "wan2.1-t2v", "--sample_prompts", str(prompts), *flags]) in (1, 2)
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [[], ["nope"], ["jobs"], ["jobs", "nope"], ["submit"], ["jobs", "list", "--limit", "0"]]
)
def test_an_unfinished_command_line_is_exit_code_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2
    assert "usage: rushes" in capsys.readouterr().err


@pytest.mark.parametrize("command", [[], *COMMANDS], ids=" ".join)
def test_every_command_explains_itself(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main([*command, "--help"])
    assert caught.value.code == 0
    out = capsys.readouterr().out
    assert f"usage: {' '.join(['rushes', *command])}" in out


def test_a_prompt_that_the_terminal_cannot_show_is_shown_in_escapes(prompts: Path) -> None:
    prompts.write_text("ein Bär 🐻\n")
    done = subprocess.run(
        [sys.executable, "-m", "rushes", "prompts", str(prompts)],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("  0  ein B\\xe4r \\U0001f43b\n")


def test_a_reader_that_stops_reading_is_no_error(prompts: Path) -> None:
    prompts.write_text("a cat\n" * 5_000)
    command = f"{sys.executable} -m rushes prompts {prompts} | head -n 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("  0  a cat\n", "")


def test_a_directory_that_may_not_be_read_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    too_long = tmp_path / ("x" * 300)  # refused to everybody, root too
    sampled = ["--architecture", "wan2.1-t2v", "--output_dir", str(tmp_path), "--rushes_model", "any/model"]
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a cat\n")
    assert cli.main(["submit", *sampled, "--sample_prompts", str(prompts), "--weights", str(too_long)]) == 1
    assert cli.main(["inspect", str(too_long)]) == 1
    first, second = capsys.readouterr().err.splitlines()
    assert first == second == f"rushes: {too_long}: File name too long"


def test_the_home_of_nobody_is_a_directory_like_others(prompts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sampled = ["submit", "--architecture", "wan2.1-t2v", "--rushes_url", "redis://127.0.0.1:1/0"]
    sampled += ["--sample_prompts", str(prompts), "--output_dir", "~no-such-user/out"]
    assert cli.main(sampled) == 1
    assert cli.main([*sampled, "--weights", "~no-such-user/lora.safetensors"]) == 1
    first, second = capsys.readouterr().err.splitlines()
    assert "127.0.0.1:1/0 cannot be reached" in first
    assert "~no-such-user/lora.safetensors: there is no such checkpoint file" in second


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no device that is always full")
def test_output_that_cannot_be_written_is_told(prompts: Path) -> None:
    command = f"{sys.executable} -m rushes prompts {prompts} > /dev/full"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "rushes: No space left on device\n")
