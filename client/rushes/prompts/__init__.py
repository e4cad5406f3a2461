"""Prompt files and prompt lines: read, checked, and every mistake in them named with its place.

Other rooms import `files` (whole files) and `lines` (one line); the modules below those belong to this room.

    options.py    the options of a prompt line, how their values are read, and which option a wrong name means
    fields.py     fields -> `Prompt`, paths made absolute
    mistakes.py   text that was meant as an option and is none
    lines.py      one line -> `Prompt`
    formats.py    .txt, .json, .toml -> entries with their places
    files.py      a file -> prompts
"""
