"""Every Redis key, group and lifetime. Nothing else in the project formats a key.

All keys share the hash tag `{rushes}`, so that one Lua script may touch several of
them on a cluster-aware proxy too.

    {rushes}:job:<id>                hash    one sample: spec, state, progress, result, error
    {rushes}:lane:<model>:<priority> stream  entries to be sampled, one field: the job id
    {rushes}:lanes                   hash    every lane that was ever written -> its model, as JSON
    {rushes}:delayed                 zset    job ids waiting for a retry, by the time they are due
    {rushes}:bell                    stream  one entry whenever a lane got work; idle workers block on it
    {rushes}:events                  stream  what happened, capped; its ids are the SSE ids
    {rushes}:index                   zset    job ids by submission time
    {rushes}:runs                    zset    run names by last submission time
    {rushes}:run:<run>               zset    job ids of a run by submission time
    {rushes}:results:<run>           stream  job ids of a run in the order in which they ended
    {rushes}:about:<run>             hash    what people wrote about a run: title, note, archived
    {rushes}:favourites:<run>        set     job ids of a run that a user marked
    {rushes}:votes:<run>             hash    votes on pairs of samples of a run: id -> JSON
    {rushes}:answer:<key>            string  what a request with an idempotency key was answered
    {rushes}:snapshot:<path>         set     job ids that still need this checkpoint snapshot
    {rushes}:workers                 zset    worker names by last heartbeat
    {rushes}:worker:<name>           hash    what a worker is doing; expires with its heartbeat
    {rushes}:order:<name>            string  "pause" or "drain": what a worker has been told to do
    {rushes}:reserved:<name>         hash    the last reservation of a worker, for when its answer is lost on the way
    {rushes}:newest:<run>            string  training step submitted last, for runs that keep the latest only
    {rushes}:newest_at:<run>         string  when that step was submitted, by the submitter's clock
"""

from __future__ import annotations

PREFIX = "{rushes}"

GROUP = "workers"
"""Consumer group of every lane."""

PRIORITIES = ("interactive", "training")
"""Lane priorities, first served first."""

EVENTS_MAXLEN = 20_000
"""Events kept: about a day of a busy box, some 6 MB."""

RESULTS_MAXLEN = 100_000
"""Ended samples listed per run."""

RECORD_TTL_S = 30 * 24 * 3600
"""How long the record of an ended sample stays. The receipt on disk stays for good."""

ABOUT_TTL_S = 365 * 24 * 3600
"""How long titles, notes and favourites stay after the last change; records can be imported again, these cannot."""

ANSWER_TTL_S = 24 * 3600
"""How long a request can be repeated under its idempotency key."""

WORKER_TTL_S = 60
"""How long a worker is listed after its last heartbeat."""

ORDER_TTL_S = 24 * 3600
"""An order to a worker that has died goes by itself; a living one renews it."""

LANES = f"{PREFIX}:lanes"
DELAYED = f"{PREFIX}:delayed"
BELL = f"{PREFIX}:bell"
EVENTS = f"{PREFIX}:events"
INDEX = f"{PREFIX}:index"
RUNS = f"{PREFIX}:runs"
WORKERS = f"{PREFIX}:workers"

JOB_PREFIX = f"{PREFIX}:job:"
RUN_PREFIX = f"{PREFIX}:run:"
RESULTS_PREFIX = f"{PREFIX}:results:"
SNAPSHOT_PREFIX = f"{PREFIX}:snapshot:"
ABOUT_PREFIX = f"{PREFIX}:about:"
FAVOURITES_PREFIX = f"{PREFIX}:favourites:"
VOTES_PREFIX = f"{PREFIX}:votes:"
ANSWER_PREFIX = f"{PREFIX}:answer:"
LANE_PREFIX = f"{PREFIX}:lane:"
WORKER_PREFIX = f"{PREFIX}:worker:"
ORDER_PREFIX = f"{PREFIX}:order:"
NEWEST_PREFIX = f"{PREFIX}:newest:"
NEWEST_AT_PREFIX = f"{PREFIX}:newest_at:"
RESERVED_PREFIX = f"{PREFIX}:reserved:"

PERMANENT_PREFIXES = (LANE_PREFIX,)
PERMANENT = (LANES, DELAYED, BELL, EVENTS, INDEX, RUNS, WORKERS)
"""Keys that live without a TTL by intent; all of them are capped or trimmed."""


def job(job_id: str) -> str:
    """Record of one sample."""
    return JOB_PREFIX + job_id


def lane(model_fingerprint: str, priority: str) -> str:
    """Stream of the samples that need one base model, at one priority."""
    return f"{LANE_PREFIX}{model_fingerprint}:{priority}"


def run(name: str) -> str:
    """Job ids of one training run."""
    return RUN_PREFIX + name


def results(name: str) -> str:
    """Ended job ids of one training run, in order."""
    return RESULTS_PREFIX + name


def about(name: str) -> str:
    """What people wrote about one training run."""
    return ABOUT_PREFIX + name


def favourites(name: str) -> str:
    """Job ids of one training run that a user marked."""
    return FAVOURITES_PREFIX + name


def votes(name: str) -> str:
    """Votes on pairs of samples of one training run."""
    return VOTES_PREFIX + name


def answer(digest: str) -> str:
    """Answer that was given to one idempotency key."""
    return ANSWER_PREFIX + digest


def snapshot(path: str) -> str:
    """Job ids that still need one checkpoint snapshot."""
    return SNAPSHOT_PREFIX + path


def worker(name: str) -> str:
    """What one worker is doing."""
    return WORKER_PREFIX + name


def order(name: str) -> str:
    """What one worker has been told to do."""
    return ORDER_PREFIX + name
