"""Look at samples, cancel them, try them again.

rushes jobs list --state failed
rushes jobs show 3f2a                  the beginning of an id is enough
rushes jobs cancel 3f2a 77b0
rushes jobs cancel --run my-lora-3fa2b1          every open sample of a run
rushes jobs retry 3f2a
rushes jobs purge --state failed --older-than 7  forget records (files stay)
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from datetime import datetime, timezone

from rushes._terminal import printable
from rushes.cli.main import redis_argument
from rushes.client.client import Client
from rushes.client.control import cancel_all, purge
from rushes.errors import ConfigError, InputError, JobNotFound
from rushes.wire.results import JobRecord, JobState

DAY_S = 24 * 3600.0
SHOWN_ID = 10
"""Digits of an id in a table; enough to be unique among the records of a month."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `rushes jobs`."""
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    listing = actions.add_parser("list", help="samples, newest first", description="samples, newest first")
    listing.add_argument("--run", dest="run_name", metavar="NAME", help="only of this run")
    listing.add_argument("--state", choices=[state.value for state in JobState], help="only in this state")
    listing.add_argument("--limit", type=above_zero, default=30, metavar="N", help="at most N (default: 30)")
    listing.add_argument("--json", action="store_true", help="print JSON, one record a line")
    redis_argument(listing)
    listing.set_defaults(action=list_jobs)
    for name, action, summary in (
        ("show", show_jobs, "everything that is known about samples, as JSON"),
        ("cancel", cancel_jobs, "end samples that are queued or running; a running one stops at its next step"),
        (
            "retry",
            retry_jobs,
            "queue samples again that have failed, died, been cancelled, or are to be made once more",
        ),
    ):
        sub = actions.add_parser(name, help=summary, description=summary)
        bulk = name == "cancel"
        sub.add_argument("ids", nargs="*" if bulk else "+", metavar="ID", help="id, or its beginning")
        if bulk:
            sub.add_argument("--run", dest="run_name", metavar="NAME", help="every open sample of this run")
            sub.add_argument("--submission", metavar="ID", help="every open sample of this submission (see `show`)")
        redis_argument(sub)
        sub.set_defaults(action=action)
    forget = actions.add_parser("purge", help="forget the records of ended samples; their files stay")
    forget.add_argument("--state", choices=[state.value for state in JobState if state.terminal], help="only these")
    forget.add_argument("--run", dest="run_name", metavar="NAME", help="only of this run")
    forget.add_argument("--older-than", type=float, metavar="DAYS", help="only those that ended before; 0 for all")
    redis_argument(forget)
    forget.set_defaults(action=purge_jobs)


def above_zero(text: str) -> int:
    """A number of records."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number above 0")
    return int(text)


def run(args: argparse.Namespace) -> int:
    """Do what was asked; returns the exit code."""
    return args.action(args, Client(args.rushes_url))


def list_jobs(args: argparse.Namespace, client: Client) -> int:
    """Print a table of records."""
    records = client.list(run=args.run_name, state=args.state, limit=args.limit)
    if args.json:
        for record in records:
            print(record.model_dump_json(exclude_defaults=True))
    else:
        print("\n".join(table(records)) if records else "no samples")
    return 0


def show_jobs(args: argparse.Namespace, client: Client) -> int:
    """Print records whole."""
    for job_id in find(client, args.ids):
        record = client.get(job_id).model_dump(mode="json", exclude_defaults=True)
        print(json.dumps(record, ensure_ascii=False, indent=2))
    return 0


def purge_jobs(args: argparse.Namespace, client: Client) -> int:
    """Forget records. All of them only if that is asked for: those of samples that failed lie nowhere else."""
    if not (args.state or args.run_name) and args.older_than is None:
        raise ConfigError("say which records: --older-than DAYS (0 for every ended sample), --state or --run")
    older_than: float = args.older_than or 0
    if not older_than >= 0:
        raise ConfigError(f"--older-than {older_than:g}: must be 0 days or more")
    state = JobState(args.state) if args.state else None
    count = purge(client, state=state, run=args.run_name, older_than_s=older_than * DAY_S)
    print(f"{count} records forgotten; the files stay, and `rushes import` reads them again")
    return 0


def cancel_jobs(args: argparse.Namespace, client: Client) -> int:
    """Cancel samples and say what became of them."""
    if not (args.ids or args.run_name or args.submission):
        raise ConfigError("name the samples to cancel by ID, or all of a --run or --submission")
    if args.run_name or args.submission:
        cancelled = cancel_all(client, run=args.run_name, submission=args.submission)
        print(f"{len(cancelled)} samples cancelled; those that run stop at their next step")
    for job_id in find(client, args.ids):
        state = client.cancel(job_id)
        print(f"{job_id[:SHOWN_ID]}  {'stops at its next step' if state is JobState.RUNNING else state.value}")
    return 0


def retry_jobs(args: argparse.Namespace, client: Client) -> int:
    """Queue samples again; 1 if one cannot be."""
    code = 0
    for job_id in find(client, args.ids):
        try:
            client.retry(job_id)
            print(f"{job_id[:SHOWN_ID]}  {client.get(job_id).state.value}")
        except InputError as error:
            print(f"{job_id[:SHOWN_ID]}  {printable(str(error))}")
            code = 1
    return code


def find(client: Client, beginnings: Iterable[str]) -> list[str]:
    """Whole ids for their beginnings.

    Raises:
        JobNotFound: one fits no sample, or more than one.
    """
    known = client.ids()
    found: list[str] = []
    for beginning in beginnings:
        fitting = [job_id for job_id in known if job_id.startswith(beginning)]
        if len(fitting) != 1:
            raise JobNotFound(f"{len(fitting)} samples have an id that begins with {beginning}; see `rushes jobs list`")
        found.append(fitting[0])
    return found


def table(records: Iterable[JobRecord]) -> list[str]:
    """Records as aligned lines under a head."""
    lines = [f"{'id':{SHOWN_ID}}  {'state':10}  {'when':16}  {'step':>7}  {'run':24}  prompt"]
    for record in records:
        when = datetime.fromtimestamp(record.created_at, timezone.utc).astimezone().strftime("%Y-%m-%d %H:%M")
        state = f"{record.step}/{record.total}" if record.state is JobState.RUNNING else record.state.value
        step = record.job.step if record.job else ""
        text = record.job.prompt.prompt if record.job else "(payload cannot be read)"
        if record.result and record.result.error:
            text = f"{text[:30]}  <- {record.result.error.message}"
        run = printable(record.run[:24])
        lines.append(f"{record.id[:SHOWN_ID]}  {state:10}  {when}  {step:>7}  {run:24}  {printable(text[:90])}")
    return lines
