"""The demo: a tiny model, a real trainer, and every part of Rushes as a process of its own.

    this process ── embedded Valkey
                 ├─ rushes api
                 ├─ rushes worker --device cpu
                 └─ rushes_service.demo.trainer      submits a checkpoint every few steps

All pictures, the prompts, the trained LoRA, the contact sheet and the logs stay in the output directory.
"""

from __future__ import annotations

import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

from rich.console import Console

from rushes.client.client import Client
from rushes.errors import ConfigError, WaitTimeout
from rushes.wire.results import JobRecord, JobState, SampleResult
from rushes_service.demo.display import Display
from rushes_service.demo.options import PROMPTS, Options
from rushes_service.demo.processes import Process, Processes
from rushes_service.demo.report import TrainerReport, as_rich, cost_table, draw_sheet
from rushes_service.demo.verdict import best_of, judge, judgement_table, verdict_table
from rushes_service.demo.verify import missing, problems_of
from rushes_service.processes.embedded_redis import EmbeddedRedis, free_port
from rushes_service.sheets import folder
from rushes_service.sheets.picking import pick

ARCHITECTURE = "wan2.1-t2v"
OUTPUT_NAME = "demo"
TRAINER = "rushes_service.demo.trainer"
TINY_WORLD = Path(__file__).parent / "tiny_world"
"""The trained model, a diffusers directory; see its README.md."""

API_PORT = 8720

POLL_S = 0.2
STALL_S = 180.0
"""Without a training step or a finished sample for this long, something is wrong."""

PROBLEMS_SHOWN = 5
"""When one sample fails, most do, and for the same reason."""

TRAINING_LINE = re.compile(r"step (\d+)/(\d+) loss (\S+)")


def run_demo(options: Options, console: Console) -> int:
    """Run the demo; 0 if every sample is as requested.

    Raises:
        RushesError: a process ended early, nothing moved for minutes, or the output directory cannot be used.
        KeyboardInterrupt: Ctrl-C; every child has ended by then.
    """
    make_output(options.output)
    with ExitStack() as stack:
        work = stack.enter_context(work_directory(options, console))
        server = stack.enter_context(EmbeddedRedis(work))
        processes = stack.enter_context(Processes(options.logs, child_environment(server.url, work)))
        port = free_port(API_PORT) or free_port(0) or 0
        with Display(console) as display:
            display.print_line("starting Valkey, the API and a worker on the CPU")
            services = start_services(processes, server.url, port)
            display.print_line("training a LoRA for a tiny Wan model, in another process")
            progress = Progress(options, display)
            trainer = start_trainer(processes, TINY_WORLD, options, progress.read_trainer_line)
            results = follow(options, server.url, trainer, services, progress)
        problems = conclude(options, results, console)
        export(options, server.url, results, console)
        end(options, f"http://127.0.0.1:{port}", services, console)
    return 1 if problems else 0


def make_output(output: Path) -> None:
    """Make the output directory and the prompt file in it.

    Raises:
        ConfigError: it cannot be written.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
        (output / "prompts.txt").write_text(PROMPTS)
    except OSError as error:
        raise ConfigError(f"cannot write to {output}: {error.strerror}; give another --output") from error


@contextmanager
def work_directory(options: Options, console: Console) -> Iterator[Path]:
    """Where the server's data and the caches live: a temporary directory, or one in the output that stays."""
    if not options.keep:
        with tempfile.TemporaryDirectory(prefix="rushes-demo-", ignore_cleanup_errors=True) as directory:
            yield Path(directory)
        return
    directory = options.output / "state" / time.strftime("%Y%m%d%H%M%S")
    directory.mkdir(parents=True)
    yield directory
    print_line(console, "queue kept", f"rushes up --devices cpu --state-dir {directory}")


def child_environment(url: str, work: Path) -> dict[str, str]:
    """Environment of the children: the demo's own directories, no network."""
    # Worker and trainer share the processor: with all cores each, they would mostly wait for each other.
    threads = max(1, (os.cpu_count() or 1) // 2)
    return {
        "RUSHES_REDIS_URL": url,
        "RUSHES_CACHE_DIR": str(work / "cache"),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": str(threads),
    }


def start_services(processes: Processes, url: str, port: int) -> list[Process]:
    """The API and one worker."""
    return [
        processes.start("api", "rushes", "api", "--port", str(port), "--redis-url", url),
        processes.start("worker", "rushes", "worker", "--device", "cpu", "--redis-url", url),
    ]


def start_trainer(processes: Processes, model: Path, options: Options, on_line: Callable[[str], None]) -> Process:
    """The trainer, with model, prompts and, in its environment, the queue."""
    flags = {
        "--rushes_model": model,
        "--output_dir": options.output,
        "--output_name": OUTPUT_NAME,
        "--rushes_run": options.run,
        "--sample_prompts": options.output / "prompts.txt",
        "--sample_every_n_steps": options.every,
        "--max_train_steps": options.steps,
        "--report": options.report,
    }
    arguments = [str(part) for flag in flags.items() for part in flag]
    return processes.start("trainer", TRAINER, "--sample_at_first", *arguments, on_line=on_line)


class Progress:
    """How far training and sampling are, for the display; notices when nothing moves any more."""

    def __init__(self, options: Options, display: Display) -> None:
        self._options = options
        self._display = display
        self._last: object = None
        self._moved = time.monotonic()
        self._line = ""

    def read_trainer_line(self, line: str) -> None:
        """Called, in another thread, with each line of the trainer."""
        if match := TRAINING_LINE.search(line):
            step = int(match[1])
            milestone = step % self._options.every == 0
            self._display.trained(step, int(match[2]), float(match[3]), milestone=milestone)
        self._line = line

    def sampled(self, records: Sequence[JobRecord]) -> None:
        """Show the state of all samples.

        Raises:
            WaitTimeout: neither training nor sampling has moved for minutes.
        """
        ended = sum(record.state.terminal for record in records)
        running = [record for record in records if record.state is JobState.RUNNING]
        note = doing(running[0]) if running else ""
        self._display.sampled(ended, self._options.sample_count, note)
        now = (self._line, ended, note)
        if now != self._last:
            self._last, self._moved = now, time.monotonic()
        elif time.monotonic() - self._moved > STALL_S:
            raise WaitTimeout(
                f"{ended} of {self._options.sample_count} samples have ended, and nothing has moved for "
                f"{STALL_S:g} s; see {self._options.logs}"
            )


def doing(record: JobRecord) -> str:
    """The current stage of a running sample."""
    counted = f" {record.step}/{record.total}" if record.total else ""
    return f"{record.stage or 'starting'}{counted}"


def follow(
    options: Options, url: str, trainer: Process, services: Sequence[Process], progress: Progress
) -> list[SampleResult]:
    """Wait until the trainer and every sample it submitted have ended; the results, by step and prompt."""
    with closing(Client(url)) as client:
        while True:
            for service in services:
                service.check()
            if trainer.exit_code:
                trainer.check()
            records = client.list(run=options.run, limit=2 * options.sample_count)
            progress.sampled(records)
            ended = [record.result for record in records if record.state.terminal and record.result is not None]
            if trainer.exit_code == 0 and len(ended) >= options.sample_count:
                return sorted(ended, key=lambda result: (result.step, result.prompt_index))
            time.sleep(POLL_S)


def conclude(options: Options, results: Sequence[SampleResult], console: Console) -> list[str]:
    """Check every file, draw the contact sheet, print the costs; returns the problems found."""
    problems = missing(results, options.sampled_steps, options.prompt_count)
    problems += [problem for result in results for problem in problems_of(result, ARCHITECTURE)]
    sheet = options.output / "contact-sheet.png"
    draw_sheet(results, sheet)
    done = [result for result in results if result.state is JobState.DONE]
    if done:
        console.print(cost_table(TrainerReport.read(options.report), done))
        console.print(verdict_table(done))
    for problem in problems[:PROBLEMS_SHOWN]:
        print_line(console, "failed", problem, style="red")
    if problems:
        more = max(0, len(problems) - PROBLEMS_SHOWN)
        print_line(console, "failed", f"{more} more; the logs are in {options.logs}", style="red")
    print_line(console, "samples", f"{options.output / 'sample'} ({len(done)} of {options.sample_count})")
    print_line(console, "contact sheet", str(sheet))
    return problems


def export(options: Options, url: str, results: Sequence[SampleResult], console: Console) -> None:
    """Name the checkpoint to keep, and write the report that says why."""
    done = [result for result in results if result.state is JobState.DONE]
    if not done:
        return
    judgements = judge(done)
    best = best_of(judgements)
    table = judgement_table(judgements, best)
    console.print(as_rich(table))
    if best is not None:
        drift = (
            f", drift {best.learned:.1f} levels, control {best.control:.1f}"
            if best.learned is not None and best.control is not None
            else ""
        )
        print_line(console, "keep", f"step {best.step}: accuracy {100 * best.accuracy:.0f} %{drift}")
    with closing(Client(url)) as client:
        page = folder.write(pick(client, options.run, None), options.page, tables=[table])
    print_line(console, "report", str(page))


def print_line(console: Console, label: str, text: str, style: str | None = None) -> None:
    """One line of the summary."""
    console.print(f"{label:<14} {text}", style=style, markup=False, highlight=False)


def end(options: Options, gallery: str, services: Sequence[Process], console: Console) -> None:
    """With `--once` say that the gallery closes now, else keep it open until Ctrl-C. Raises as `stay`."""
    if options.once:
        print_line(console, "gallery", f"{gallery}, closed now; `rushes demo` (without --once) keeps it open")
    else:
        print_line(console, "gallery", f"{gallery}, open until Ctrl-C")
        stay(services)


def stay(services: Sequence[Process]) -> None:
    """Serve until Ctrl-C.

    Raises:
        RushesError: a part ended by itself.
    """
    with suppress(KeyboardInterrupt):
        while True:
            for service in services:
                service.check()
            time.sleep(1)
