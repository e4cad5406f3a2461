"""Prompt files in their three formats, and the place of every mistake in them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rushes import Prompt, load_prompts, read_prompts
from rushes.errors import PromptError
from rushes.prompts.files import warning_lines


def write(directory: Path, name: str, content: str | bytes) -> Path:
    path = directory / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def mistake(path: Path, lenient: bool = False) -> PromptError:
    with pytest.raises(PromptError) as caught:
        load_prompts(path, lenient=lenient)
    return caught.value


def place(path: Path) -> tuple[str, int | None, int | None]:
    """Message, line and column of the first mistake of a file; the file is checked here."""
    error = mistake(path)
    assert error.file == str(path)
    assert str(error).startswith(str(path))
    return error.message, error.line, error.column


TXT = "# scenes\n\na red ball --w 64\n  # no comment, for it is indented\ntwo cats --d 7\n"
TOML = """
[prompt]
width = 64
seed = 1

[[prompt.subset]]
prompt = "a red ball"

[[prompt.subset]]
prompt = '''two
cats'''
seed = 7
control_image_path = "here.png"
"""


def test_a_text_file_has_a_prompt_a_line(tmp_path: Path) -> None:
    entries = read_prompts(write(tmp_path, "p.txt", TXT))
    assert [(entry.index, entry.line) for entry in entries] == [(0, 3), (1, 4), (2, 5)]
    assert [entry.prompt for entry in entries] == [
        Prompt(prompt="a red ball", width=64),
        Prompt(prompt="# no comment, for it is indented"),
        Prompt(prompt="two cats", seed=7),
    ]


def test_a_toml_file_has_defaults_and_subsets_that_override_them(tmp_path: Path) -> None:
    assert load_prompts(write(tmp_path, "p.toml", TOML)) == [
        Prompt(prompt="a red ball", width=64, seed=1),
        Prompt(prompt="two\ncats", width=64, seed=7, control_image_path=(str(tmp_path / "here.png"),)),
    ]


def test_a_json_file_has_lines_and_objects(tmp_path: Path) -> None:
    content = ["a red ball --w 64", {"prompt": "two cats", "width": 32, "seed": -1, "sample_steps": 9000, "enum": 4}]
    assert load_prompts(write(tmp_path, "p.json", json.dumps(content))) == [
        Prompt(prompt="a red ball", width=64),
        Prompt(prompt="two cats", width=32, sample_steps=1000),
    ]


@pytest.mark.parametrize(("name", "content"), [("p.txt", TXT), ("p.toml", TOML), ("p.JSON", '[\n"a --w 64",\n"b"\n]')])
def test_windows_files_read_like_others(tmp_path: Path, name: str, content: str) -> None:
    plain = load_prompts(write(tmp_path, name, content))
    windows = content.replace("\n", "\r\n").encode("utf-8-sig")
    assert load_prompts(write(tmp_path, name, windows)) == plain


def test_the_lines_of_an_old_mac_file_are_lines(tmp_path: Path) -> None:
    assert [prompt.prompt for prompt in load_prompts(write(tmp_path, "p.txt", "a\rb\r"))] == ["a", "b"]


def test_tabs_separate_and_indent(tmp_path: Path) -> None:
    path = write(tmp_path, "p.txt", "\ta cat\t--w\t64\n\tb --q 1\n")
    entries = read_prompts(path)
    assert entries[0].prompt == Prompt(prompt="a cat", width=64)
    assert (entries[1].error and entries[1].error.column) == 4


def test_options_of_letters_beyond_ascii_are_counted_as_people_count(tmp_path: Path) -> None:
    assert place(write(tmp_path, "p.txt", "ein großer Bär 🐻 --q 1"))[1:] == (1, 18)


@pytest.mark.parametrize(
    ("name", "content", "line", "column", "told"),
    [
        ("p.txt", "good\n   bad --w x\n", 2, 8, "--w x"),
        ("p.txt", "good\r\nbad --w 99999\r\n", 2, 5, "less than or equal"),
        ("p.json", '["good",\n  "bad --w x"]', 2, 8, "--w x"),
        ("p.json", r'["\"q\" \ud83d\udc3b é --w x"]', 1, 24, "--w x"),
        ("p.json", '[\n {"prompt": "x",\n  "width": "wide"}]', 3, 3, "width: Input should be a valid integer"),
        ("p.json", '[\n {"prompt": "x",\n  "widht": 3}]', 3, 3, "did you mean 'width'?"),
        ("p.json", "[\n 3]", 2, 2, "must be a prompt line or an object"),
        ("p.json", '[\n "a",,\n "b"]', 2, 6, "not JSON"),
        ("p.json", '{"prompt": "x"}', 1, None, "must be a list"),
        ("p.json", "", 1, 1, "not JSON"),
        ("p.toml", '[prompt]\n[[prompt.subset]]\nprompt="x"\n  width = 0\n', 4, 3, "greater than or equal to 1"),
        ("p.toml", '[prompt]\nheigth = 64\n[[prompt.subset]]\nprompt="x"\n', 2, 1, "did you mean 'height'?"),
        (
            "p.toml",
            '[prompt]\n[[prompt.subset]]\nseed="x"\n[[prompt.subset]]\n"seed" = "y"',
            3,
            1,
            "seed: Input should",
        ),
        ("p.toml", '[prompt]\nsubset = [{prompt = "x", width = 0}]\n', 2, None, "greater than or equal to 1"),
        ("p.toml", "[prompt]\nwidth = \n", 2, 9, "not TOML"),
        ("p.toml", '[prompt]\nx = """', 2, None, "not TOML"),
        ("p.toml", "[prompt]\nwidth = 64\n", 1, None, "[[prompt.subset]]"),
        ("p.toml", "prompt = 3\n", 1, None, "[[prompt.subset]]"),
    ],
)
def test_a_mistake_names_file_line_and_column(
    tmp_path: Path, name: str, content: str, line: int, column: int | None, told: str
) -> None:
    message, *found = place(write(tmp_path, name, content))
    assert found == [line, column]
    assert told in message


@pytest.mark.parametrize(("name", "empty"), [("p.txt", ""), ("p.txt", "# all\n\n# asleep"), ("p.json", "[]")])
def test_a_file_without_prompts_is_a_mistake(tmp_path: Path, name: str, empty: str) -> None:
    assert place(write(tmp_path, name, empty))[0] == "no prompts in this file"


def test_a_file_that_is_no_utf8_is_named_with_its_line(tmp_path: Path) -> None:
    message, line, _ = place(write(tmp_path, "p.txt", "gut\nBär\n".encode("latin-1")))
    assert (message, line) == ("not UTF-8 text; save the file as UTF-8", 2)


def test_files_that_are_none_are_named(tmp_path: Path) -> None:
    (tmp_path / "directory.txt").mkdir()
    assert place(tmp_path / "absent.txt")[0] == "there is no such prompt file"
    assert "directory" in place(tmp_path / "directory.txt")[0]
    assert "ends in .yaml" in place(tmp_path / "p.yaml")[0]
    assert "ends in nothing" in place(tmp_path / "prompts")[0]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("p.json", "[" * 100_000),
        ("p.json", f'[{{"width": {"9" * 5000}}}]'),
        ("p.json", '[{"prompt": null}]'),
        ("p.json", '[{"cfg_scale": NaN}]'),
        ("p.json", '["\\ud800"]'),
        ("p.json", '[{"prompt": "x", "control_image_path": [1]}]'),
        ("p.toml", f"[prompt]\nwidth = {'9' * 5000}\n[[prompt.subset]]"),
        ("p.toml", f"x = {'[' * 100_000}"),
        ("p.toml", "[prompt]\n[[prompt.subset]]\nprompt = 1979-05-27\n"),
    ],
)
def test_what_is_far_from_a_prompt_is_a_prompt_error(tmp_path: Path, name: str, content: str) -> None:
    assert mistake(write(tmp_path, name, content)).file is not None


def test_a_bad_line_takes_no_other_with_it(tmp_path: Path) -> None:
    entries = read_prompts(write(tmp_path, "p.txt", "one\ntwo --nope 1\nthree\n"))
    assert [entry.prompt and entry.prompt.prompt for entry in entries] == ["one", None, "three"]
    assert entries[1].text == "two --nope 1"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("p.txt", "x --w 32 --h tall --nope 1\n"),
        ("p.json", '[{"prompt": "x", "width": 32, "height": "tall", "nope": 1}]'),
        ("p.toml", '[prompt]\nnope = 1\nwidth = 32\n[[prompt.subset]]\nprompt = "x"\nheight = "tall"\n'),
    ],
)
def test_lenient_leaves_out_what_it_cannot_read(tmp_path: Path, name: str, content: str) -> None:
    [entry] = read_prompts(write(tmp_path, name, content), lenient=True)
    assert entry.prompt == Prompt(prompt="x", width=32)
    assert len(entry.warnings) == 2


def test_images_lie_beside_the_prompt_file(tmp_path: Path) -> None:
    (tmp_path / "cat.png").touch()
    content = json.dumps([{"prompt": "x", "image_path": "cat.png"}, "y --i cat.png"])
    assert [p.image_path for p in load_prompts(write(tmp_path, "p.json", content))] == [str(tmp_path / "cat.png")] * 2


@pytest.mark.parametrize(
    ("name", "content", "line", "column", "told"),
    [
        ("p.txt", "Close up portrait of zorp.\n --w 384 --h 384 --d 9\n", 2, 2, "options without a prompt"),
        ("p.txt", "--w 384\na cat\n", 1, 1, "options without a prompt"),
        ("p.txt", "a cat \\\n--w 64\n", 1, 7, "backslash"),
        ("p.txt", "a cat\\\nand a dog\n", 1, 6, "backslash"),
        ("p.txt", "a cat --n ugly \\\n", 1, 16, "backslash"),
        ("p.txt", "a cat --n ugly\\\n", 1, 15, "backslash"),
        ("p.txt", "a\nb \u2014w 512\n", 2, 3, "em dash"),
        ("p.txt", "a\n  b \u2014w 512\n", 2, 5, "em dash"),
        ("p.txt", "a\nb\0c\n", 2, 2, "NUL"),
        ("p.txt", "a cat\n\ufeff# comment of a second file\n", 2, 1, "byte order mark"),
        ("p.json", '["a cat", "--w 64"]', 1, 12, "options without a prompt"),
        ("p.json", '[{"width": 3,\n "prompt": "a cat --w 512 --h 512"}]', 2, 2, "prompt: --w in the text"),
        ("p.json", '[{"negative_prompt": "ugly --W=5", "prompt": "x"}]', 1, 3, "negative_prompt: --W=5 in the text"),
        ("p.json", '[{"prompt": "a cat \u2014w 512"}]', 1, 3, "em dash"),
        ("p.json", r'[{"prompt": "a\u0000b"}]', 1, 3, "NUL"),
        ("p.json", r'["a\u0000b"]', 1, 4, "NUL"),
        ("p.json", '[{"prompt": "x", "steps": 3}]', 1, 18, "did you mean 'sample_steps'?"),
        ("p.json", '[{"prompt": "x", "cfg": 3}]', 1, 18, "did you mean 'cfg_scale'?"),
        ("p.json", '[{"prompt": "x", "fps": 3}]', 1, 18, "unknown key 'fps'; known"),
        ("p.json", '[{"promt": "x"}]', 1, 3, "did you mean 'prompt'?"),
        ("p.toml", '[prompt]\n[[prompt.subset]]\nprompt = "a cat --d 4"\n', 3, 1, "prompt: --d in the text"),
    ],
)
def test_what_would_be_taken_for_text_without_a_word_is_a_mistake(
    tmp_path: Path, name: str, content: str, line: int, column: int, told: str
) -> None:
    path = write(tmp_path, name, content)
    message, *found = place(path)
    assert found == [line, column]
    assert told in message
    entries = read_prompts(path, lenient=True)
    assert any(entry.warnings or entry.error for entry in entries)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("p.json", '[{"prompt": ""}]'),
        ("p.json", '[{"width": 64}]'),
        ("p.json", '[" "]'),
        ("p.json", r'[{"prompt": "\u200b\n"}]'),
        ("p.toml", "[prompt]\n[[prompt.subset]]\nwidth = 64\n"),
    ],
)
def test_an_empty_prompt_is_a_warning(tmp_path: Path, name: str, content: str) -> None:
    [entry] = read_prompts(write(tmp_path, name, content))
    assert entry.prompt is not None
    assert "the prompt is empty" in entry.warnings[0]
    assert list(warning_lines([entry])) == [f"{tmp_path / name}:{entry.line}: {entry.warnings[0]}"]


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-16", "utf-32-le"])
@pytest.mark.parametrize("name", ["p.txt", "p.json", "p.toml"])
def test_a_file_in_another_unicode_encoding_is_named(tmp_path: Path, name: str, encoding: str) -> None:
    content = TXT if name == "p.txt" else '["a"]' if name == "p.json" else TOML
    message = place(write(tmp_path, name, content.encode(encoding)))[0]
    assert "save the file as UTF-8" in message


def test_a_second_byte_order_mark_is_named(tmp_path: Path) -> None:
    assert "two byte order marks" in place(write(tmp_path, "p.txt", "\ufeff\ufeffa cat"))[0]


def test_the_path_of_a_directory_may_end_in_a_backslash(tmp_path: Path) -> None:
    [prompt] = load_prompts(write(tmp_path, "p.txt", "a cat --cn C:\\depth\\\n"))
    assert prompt.control_video_path == str(tmp_path / "C:\\depth\\")


@pytest.mark.parametrize("field", ["image_path", "end_image_path", "control_video_path", "control_image_path"])
@pytest.mark.parametrize("empty", ["", "  ", '""'])
def test_an_empty_path_is_none(tmp_path: Path, field: str, empty: str) -> None:
    content = json.dumps([{"prompt": "x", field: empty}])
    assert load_prompts(write(tmp_path, "p.json", content)) == [Prompt(prompt="x")]


def test_empty_and_quoted_paths_in_a_list(tmp_path: Path) -> None:
    content = json.dumps([{"prompt": "x", "control_image_path": ["", "'a.png'"], "image_path": '"b.png"'}])
    [prompt] = load_prompts(write(tmp_path, "p.json", content))
    assert prompt.control_image_path == (str(tmp_path / "a.png"),)
    assert prompt.image_path == str(tmp_path / "b.png")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(["p.txt", "p.json", "p.toml"]), st.booleans(), st.binary(max_size=60) | st.text(max_size=60))
def test_arbitrary_files_give_prompts_or_a_prompt_error(
    tmp_path: Path, name: str, lenient: bool, content: bytes | str
) -> None:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
    try:
        assert load_prompts(path, lenient=lenient)
    except PromptError as error:
        assert error.file == str(path)
