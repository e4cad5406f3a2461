"""One prompt line: every option, every mistake with its column, and what people write that is no option at all."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rushes import Prompt, parse_line
from rushes.errors import PromptError
from rushes.families.prompt_options import OPTION_OF_FIELD, PATH_FIELDS
from rushes.prompts.lines import OPTION, parse_with_warnings
from rushes.prompts.mistakes import find_mistakes


def asked(line: str) -> dict[str, object]:
    """The fields that a line sets."""
    return parse_line(line).model_dump(exclude_defaults=True)


@pytest.mark.parametrize(
    ("option", "field", "value"),
    [
        ("--w 480", "width", 480),
        ("--h 832", "height", 832),
        ("--f 81", "frame_count", 81),
        ("--d 42", "seed", 42),
        ("--d 0", "seed", 0),
        ("--s 30", "sample_steps", 30),
        ("--s 0", "sample_steps", 1),
        ("--s 5000", "sample_steps", 1000),
        ("--g 6.5", "guidance_scale", 6.5),
        ("--g .5", "guidance_scale", 0.5),
        ("--fs 0", "discrete_flow_shift", 0.0),
        ("--l 1.0", "cfg_scale", 1.0),
        ("--n ugly, blurry", "negative_prompt", "ugly, blurry"),
        ("--of target_index=1,no_2x", "one_frame", "target_index=1,no_2x"),
        ("--m -0.5", "lora_multiplier", -0.5),
        ("--m 0", "lora_multiplier", 0.0),
    ],
)
def test_each_option_sets_its_field(option: str, field: str, value: object) -> None:
    assert asked(f"a cat {option}") == {"prompt": "a cat", field: value}


@pytest.mark.parametrize("line", ["a cat --W 64 --FS 3", "a cat --w=64 --fs=3", "a cat  --w   64\t--fs 3  "])
def test_case_equals_signs_and_blanks_make_no_difference(line: str) -> None:
    found = parse_line(line)
    assert (found.prompt.rstrip(), found.width, found.discrete_flow_shift) == ("a cat", 64, 3.0)


@pytest.mark.parametrize(
    ("option", "field"), [("i", "image_path"), ("ei", "end_image_path"), ("cn", "control_video_path")]
)
def test_paths_are_looked_up_beside_the_prompt_file_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str, field: str
) -> None:
    beside, here = tmp_path / "beside", tmp_path / "here"
    for directory in (beside, here):
        directory.mkdir()
        (directory / "both.png").touch()
    (here / "only here.png").touch()
    monkeypatch.chdir(here)

    def found(name: str) -> str:
        return getattr(parse_line(f"x --{option} {name}", base=beside), field)

    assert found("both.png") == str(beside / "both.png")
    assert found("only here.png") == str(here / "only here.png")
    assert found("nowhere.png") == str(beside / "nowhere.png")
    assert found(str(here / "both.png")) == str(here / "both.png")


def test_control_images_repeat_in_order(tmp_path: Path) -> None:
    assert parse_line("x --ci a.png --ci b.png", base=tmp_path).control_image_path == (
        str(tmp_path / "a.png"),
        str(tmp_path / "b.png"),
    )


@pytest.mark.parametrize(
    "text",
    [
        "I love cats",
        "i am a robot, w 512 of them",
        "cats -- three of them",
        "a well--known place",
        "a dash --- and more",
        "n",
        "--",
        "a price of --5 dollars",
    ],
)
def test_prompt_text_is_never_taken_for_an_option(text: str) -> None:
    assert asked(text) == {"prompt": text}


def test_minus_one_asks_for_a_random_seed() -> None:
    assert asked("a cat --d -1") == {"prompt": "a cat"}


def test_a_line_may_have_options_alone() -> None:
    assert asked("--w 64") == {"prompt": "", "width": 64}


@pytest.mark.parametrize(
    ("line", "column", "told"),
    [
        ("a cat --w 512px", 7, "--w 512px: must be a whole number above 0"),
        ("a cat --w 0", 7, "whole number above 0"),
        ("a cat --w 64 --h", 14, "--h needs a value"),
        ("a cat --h --w 64", 7, "--h needs a value"),
        ("a cat --d -5", 7, "-1 for a random seed"),
        ("a cat --d 9223372036854775808", 7, "2^63-1"),
        ("a cat --g 1.2.3", 7, "must be a number"),
        ("a cat --g -1", 7, "0 or above"),
        ("a cat --l nan", 7, "must be a number"),
        ("a cat --s ten", 7, "whole number"),
        ("a cat --m one", 7, "must be a number"),
        ("a cat --w512", 7, "put a blank"),
        ("a cat --w 64 --w 64", 14, "--w is given twice"),
        ("a cat --width 64", 7, "unknown option --width; did you mean --w?"),
        ("a cat --steps 3", 7, "did you mean --s?"),
        ("a cat --cfg 3", 7, "did you mean --l?"),
        ("a cat --frames 81", 7, "did you mean --f?"),
        ("a cat --num-inference-steps 30", 7, "did you mean --s?"),
        ("a cat --flow_shift 3", 7, "did you mean --fs?"),
        ("a cat --negative ugly", 7, "did you mean --n?"),
        ("a cat --guidnace_scale 3", 7, "did you mean --g?"),
        ("a cat --fps 16", 7, "unknown option --fps; known:"),
        ("a cat --ar 16:9", 7, "unknown option --ar; known:"),
        ("a cat --seeds 7", 7, "did you mean --d?"),
        ("a c\0at", 4, "NUL"),
        ("a cat \ufeffor two", 7, "byte order mark"),
        ("a cat --w 99999", 7, "--w: Input should be less than or equal to 16384 (got 99999)"),
        ("a cat --f " + "9" * 5000, 7, "--f: Input should be less"),
        ("a cat --g " + "9" * 400, 7, "--g: Input should be a finite number"),
    ],
)
def test_a_mistake_names_its_column_and_what_is_wrong(line: str, column: int, told: str) -> None:
    with pytest.raises(PromptError) as caught:
        parse_line(line)
    assert caught.value.column == column
    assert told in caught.value.message
    assert str(caught.value).startswith(f"{column}: ")


NO_OPTIONS = {
    "\u2014w 512": "em dash",
    "\u2013h 512": "en dash",
    "\uff0d\uff0dd 42": "fullwidth hyphen-minus",
    "\u2212s 20": "minus sign",
    "\u2015f 81": "horizontal bar",
    "\u2010\u2010g 6": "hyphen (U+2010)",
    "-\u2013w 512": "en dash",
    "-w 512": "one hyphen",
    "-W 512": "one hyphen",
    "-fs 3.0": "one hyphen",
    "-m -0.5": "one hyphen",
    "---w 512": "3 hyphens",
    "\u2014w=512": "em dash",
    "\u2014w512": "em dash",
    "\u2014width 512": "em dash",
    "-steps 20": "one hyphen",
    "-i cat.png": "one hyphen",
    "\u2014cn depth/clip": "em dash",
    '\u2014ci "my cat.png"': "em dash",
    "\u200b--w 512": "invisible",
    "--\u200bw 512": "invisible",
    "-\u2060-w 512": "invisible",
    "\ufeff--w 512": "byte order mark",
    "-- w 512": "a blank is between",
    "-- i cat.png": "a blank is between",
    "--\uff57 512": "full-width",
    "\uff0d\uff57 512": "fullwidth hyphen-minus",
    "\uff0d\uff0d\uff48\uff1d\uff15\uff11\uff12": "fullwidth hyphen-minus",
}


@pytest.mark.parametrize(("option", "told"), NO_OPTIONS.items())
@pytest.mark.parametrize("behind", ["", " --h 64", " --n ugly"])
def test_an_option_with_a_wrong_dash_is_a_mistake_wherever_it_stands(option: str, told: str, behind: str) -> None:
    for line in (f"a cat {option}{behind}", f"a cat{behind} {option}"):
        with pytest.raises(PromptError, match=re.escape(told)) as caught:
            parse_line(line)
        assert caught.value.column == line.index(option) + 1
    prompt, warnings = parse_with_warnings(f"a cat {option}", lenient=True, base=None)
    assert (prompt.prompt, len(warnings) > 0) == (f"a cat {option}", True)


@pytest.mark.parametrize(
    "line", ["a cat--w 512", "a cat--n=ugly --w 3", "a cat\u2014d 42", "a cat\u200b--h 64", "a\u00a0cat--d -1"]
)
def test_an_option_that_touches_the_text_is_a_mistake_or_a_warning(line: str) -> None:
    try:
        _, warnings = parse_with_warnings(line, lenient=False, base=None)
    except PromptError as error:
        warnings = (error.message,)
    assert any("no blank" in warning or "invisible" in warning for warning in warnings)


@pytest.mark.parametrize(
    "line", ["he said \u2014i am here", "rock -n roll", "a cat \u2014n blurry", "24-h 7 days", "a cat \u2014 w 512"]
)
def test_text_that_may_be_an_option_is_a_warning(line: str) -> None:
    prompt, (warning,) = parse_with_warnings(line, lenient=False, base=None)
    assert prompt == Prompt(prompt=line)
    assert warning.endswith("(taken as text)")


@pytest.mark.parametrize(
    "line",
    [
        "a cat \u2014 three of them",
        "a well\u2014known place",
        "a \u2014I see\u2014 moment",
        "pages 3\u20135",
        "a t-shirt, x-ray, 16-bit, f-16, a-w, high-d sound",
        "minus -5 degrees",
        "a family \U0001f468\u200d\U0001f469\u200d\U0001f467 at home",
        "the stairs\u2014steps 3 and 4",
        "x-w512 and r2-d2",
    ],
)
def test_dashes_of_prose_are_text(line: str) -> None:
    assert parse_with_warnings(line, lenient=False, base=None) == (Prompt(prompt=line), ())


@pytest.mark.parametrize("quoted", ['"my cat.png"', "'my cat.png'", "\u201cmy cat.png\u201d", ' "my cat.png" '])
def test_quotation_marks_around_a_path_are_taken_off(tmp_path: Path, quoted: str) -> None:
    assert parse_line(f"x --i {quoted}", base=tmp_path).image_path == str(tmp_path / "my cat.png")
    assert parse_line(f"x --ci {quoted} --ci b", base=tmp_path).control_image_path[0] == str(tmp_path / "my cat.png")


@pytest.mark.parametrize(
    "option", ["--w 512px", "--nope 3", "--w 99999", "--g " + "9" * 400, "--d -7", "--ci", "--w64"]
)
def test_lenient_leaves_a_mistake_out_and_says_so(option: str) -> None:
    prompt, warnings = parse_with_warnings(f"a cat {option} --h 64", lenient=True, base=None)
    assert prompt == Prompt(prompt="a cat", height=64)
    assert len(warnings) == 1
    assert warnings[0].startswith("column 7: ")
    assert warnings[0].endswith("(left out)")


@pytest.mark.parametrize("path", ["~nobody-of-this-name/x.png", "x" * 5000, "\N{SNOWMAN}.png"])
def test_a_path_that_cannot_exist_is_kept_for_the_worker_to_refuse(tmp_path: Path, path: str) -> None:
    assert parse_line(f"x --i {path}", base=tmp_path).image_path == str(tmp_path / path)


def test_a_home_directory_is_written_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert parse_line("x --i ~/a.png").image_path == str(tmp_path / "a.png")


def test_half_a_character_is_a_prompt_error() -> None:
    with pytest.raises(PromptError, match="half a character"):
        parse_line("a \ud800 cat")


# Any prompt, written as a line, reads back as itself.

clean = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), max_size=40)
texts = clean.filter(lambda text: not OPTION.search(text) and not find_mistakes(text))
negatives = texts.filter(lambda text: text.strip() != "")
paths = (
    st.text("abc /.ü-", min_size=1, max_size=20)
    .map(lambda text: f"/{text.strip()}")
    .filter(lambda text: not OPTION.search(text) and os.path.normpath(text) == text)  # `..` is taken out
)
decimals = st.decimals(0, 1000, places=3).map(float)
prompts = st.builds(
    Prompt,
    prompt=texts,
    width=st.none() | st.integers(1, 16384),
    height=st.none() | st.integers(1, 16384),
    frame_count=st.none() | st.integers(1, 16384),
    seed=st.none() | st.integers(0, 2**63 - 1),
    sample_steps=st.none() | st.integers(1, 1000),
    guidance_scale=st.none() | decimals,
    discrete_flow_shift=st.none() | decimals,
    cfg_scale=st.none() | decimals,
    negative_prompt=st.none() | negatives,
    image_path=st.none() | paths,
    end_image_path=st.none() | paths,
    control_video_path=st.none() | paths,
    control_image_path=st.lists(paths, max_size=3).map(tuple),
    lora_multiplier=st.none() | st.decimals(-10, 10, places=3).map(float),
)


def written(prompt: Prompt) -> str:
    """A prompt as a line of a prompt file."""
    line = prompt.prompt
    for field, option in OPTION_OF_FIELD.items():
        value = getattr(prompt, field)
        values = value if isinstance(value, tuple) else (value,)
        line += "".join(f" {option} {one}" for one in values if one is not None)
    return line


@given(prompts)
def test_any_prompt_written_as_a_line_reads_back_as_itself(prompt: Prompt) -> None:
    assert parse_line(written(prompt)) == prompt


pieces = st.sampled_from(
    [*(f" {name} " for name in OPTION_OF_FIELD.values()), " --", "=", "-1", "9" * 40, "a\n", "\0", "~"]
)


@given(st.lists(st.text(max_size=8) | pieces, max_size=12).map("".join))
def test_arbitrary_text_gives_a_prompt_or_a_prompt_error(text: str) -> None:
    try:
        strict = parse_line(text)
    except PromptError as error:
        strict = None
        assert error.column is not None
    lenient, warnings = parse_with_warnings(text, lenient=True, base=None)
    assert warnings or strict is not None
    assert strict in (None, lenient)
    assert all(getattr(lenient, field) is None or lenient.prompt is not None for field in PATH_FIELDS)
