"""Lua scripts: loaded from their files, with the key names of keys.py put before them.

Scripts build keys from prefixes, which needs a single primary (or Sentinel); all keys share one hash tag.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from rushes.wire import keys

CONSTANTS = {
    "JOB_PREFIX": keys.JOB_PREFIX,
    "RUN_PREFIX": keys.RUN_PREFIX,
    "RESULTS_PREFIX": keys.RESULTS_PREFIX,
    "SNAPSHOT_PREFIX": keys.SNAPSHOT_PREFIX,
    "NEWEST_PREFIX": keys.NEWEST_PREFIX,
    "NEWEST_AT_PREFIX": keys.NEWEST_AT_PREFIX,
    "RESERVED_PREFIX": keys.RESERVED_PREFIX,
    "LANES": keys.LANES,
    "DELAYED": keys.DELAYED,
    "BELL": keys.BELL,
    "EVENTS": keys.EVENTS,
    "INDEX": keys.INDEX,
    "RUNS": keys.RUNS,
    "GROUP": keys.GROUP,
    "EVENTS_MAXLEN": keys.EVENTS_MAXLEN,
    "RESULTS_MAXLEN": keys.RESULTS_MAXLEN,
    "RECORD_TTL_S": keys.RECORD_TTL_S,
}


@cache
def script(*names: str, package: str = "rushes.wire") -> str:
    """Text of the named scripts of a package's `lua` directory, joined, behind the constants and common.lua."""
    constants = "\n".join(f"local {name} = {literal(value)}" for name, value in CONSTANTS.items())
    common = files("rushes.wire").joinpath("lua", "common.lua").read_text()
    parts = [files(package).joinpath("lua", f"{name}.lua").read_text() for name in names]
    return "\n".join([constants, common, *parts])


def literal(value: str | int) -> str:
    """A Lua literal."""
    return str(value) if isinstance(value, int) else f"'{value}'"
