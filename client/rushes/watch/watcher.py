"""`CheckpointWatcher`: new complete checkpoints of unmodified trainers are held, spooled and handed over.

    found ── complete, and unchanged for a moment ──> held ──> spool file ──> journal ──> Redis ──> spool file removed

A crash anywhere on this way loses nothing: what is not in the journal is found again, what is in the spool is handed
over by the next watcher, and doing either twice makes one sample.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from rushes._paths import PRIVATE_DIR, SNAPSHOT_DIR
from rushes.checkpoints.safetensors import read_header
from rushes.checkpoints.snapshots import release
from rushes.checkpoints.weights import secure
from rushes.client.client import Client
from rushes.errors import (
    CheckpointError,
    CheckpointMissing,
    ConfigError,
)
from rushes.prompts.files import PromptLine
from rushes.submission.build import Run, run_name
from rushes.submission.spool import Submission
from rushes.submission.submission_builder import LOST, SubmissionBuilder
from rushes.watch.delivery import Delivery
from rushes.watch.experts import not_sampled, of_both_experts
from rushes.watch.finding import Found, Search, epochs_counted, find, nothing_found
from rushes.watch.journal import SAMPLED, SKIPPED, Journal
from rushes.watch.names import step_of
from rushes.watch.pairs import Ready, paired
from rushes.watch.waiting import Waiting, metadata_of
from rushes.wire.base import digest

SETTLE_S = 2.0
"""How long a complete file must stay as it is. Some tools give a file its full size before they fill it."""

JOURNAL = "watched"


class CheckpointWatcher:
    """Samples the checkpoints that appear in directories.

    Args:
        roots: directories to watch; they may not exist yet.
        run: what all samples share. Its name, output directory and output name are taken where `fixed` says so,
            else they are made from where each checkpoint lies and what it is called.
        prompts: reads the prompt file anew, for each checkpoint.
        client: where samples are queued.
        report: receives what happens, a line at a time.
        backfill: sample what was there before, too.
        base: sample the base model once per run, as step 0.
        settle_s: see `SETTLE_S`.
        fixed: those of "name", "output_dir", "output_name" that are given for all.
    """

    def __init__(
        self,
        roots: Sequence[Path],
        run: Run,
        prompts: Callable[[], Iterable[PromptLine]],
        client: Client,
        *,
        report: Callable[[str], None],
        search: Search | None = None,
        backfill: bool = False,
        base: bool = False,
        settle_s: float = SETTLE_S,
        fixed: frozenset[str] = frozenset(),
    ) -> None:
        self.roots = roots
        self.run = run
        self.client = client
        self.report = report
        self.search = search or Search()
        self.base = base
        self.fixed = fixed
        self.prompts = prompts
        self._journals = {root: Journal(self._journal_path(root), root) for root in roots}
        self.waiting = Waiting(settle_s, report)
        self._lines = list(prompts())
        self._builders: dict[tuple[str, str | None], SubmissionBuilder] = {}
        self._newest: dict[str, int] = {}
        self._with_base: set[str] = set()
        output_dirs = [str(self._output_dir(root)) for root in roots]
        self._delivery = Delivery(client, output_dirs, report)
        self.failed = False
        """Something could not be written at the last look; it is tried again at the next."""
        self._refused: set[tuple[str, str]] = set()
        """Runs, and why checkpoints of them are left alone, as far as it was reported."""
        for root in roots:
            self._begin(root, backfill)

    @property
    def unsent(self) -> int:
        """Submissions that Redis has not accepted yet; they lie in the spool."""
        return self._delivery.unsent

    def look(self) -> None:
        """Look at every directory once: submit what is ready, and hand over what lies in the spool."""
        there = [(journal, found) for root, journal in self._journals.items() for found in self._find(root)]
        self.waiting.keep({found.path for _, found in there})
        ready = [one for journal, found in there for one in self._ready(journal, found)]
        if self.run.model.experts == "both" and self.run.model.lora_expert is None:
            ours = [(journal, found) for journal, found in there if self._ours(found)]
            ready = list(paired(ready, ours, self._step_key, self.waiting.awaits))
        failed_before, self.failed = self.failed, False
        for one in sorted(ready, key=lambda one: one.order):
            try:
                self._submit(one)
            except OSError as error:
                if not (failed_before or self.failed):
                    self.report(f"{error}; what is new is tried again until it can be written")
                self.failed = True
        self._delivery.hand_over()

    def _find(self, root: Path) -> list[Found]:
        output_name = self.run.output_name if "output_name" in self.fixed else None
        from_zero = self._journals[root].from_zero
        there = epochs_counted((found.of(output_name) for found in find(root, self.search)), from_zero)
        from_zero |= {found.run_key for found in there if found.place.epoch == 0}
        return there

    def _begin(self, root: Path, backfill: bool) -> None:
        """Take what lies in a directory that was never watched for known, or tell it apart to be sampled."""
        journal = self._journals[root]
        if backfill:
            journal.forget_skipped()
        there = self._find(root)
        journal.prune(there)
        ours = [found for found in there if self._ours(found)]
        old = [found for found in ours if self._noted(found)]
        known = [found for found in old if journal.knows(found)]
        if not root.is_dir():
            self.report(f"watching {root}, which does not exist yet")
        elif there and not ours:
            others = ", ".join(sorted({str(found.place.name) for found in there}))
            self.report(f"watching {root}, which holds checkpoints of other runs only ({others})")
        elif not there:
            if not (journal.exists or backfill):
                journal.save()
            self.report(f"watching {root}, which holds no checkpoint yet: {nothing_found(root, self.search)}")
        elif journal.exists:
            self.report(f"watching {root}: {len(known)} checkpoints known, {len(old) - len(known)} new")
        elif backfill:
            self.report(f"watching {root}: {len(old)} checkpoints to sample")
        else:
            for found in old:
                journal.note(found, SKIPPED)
            journal.save()
            left = f"; the {len(old)} checkpoints in it are left alone (--backfill samples them)" if old else ""
            self.report(f"watching {root}{left}")

    def _noted(self, found: Found) -> bool:
        """True for a complete checkpoint; its step counts when a later one does not report its own."""
        try:
            metadata = metadata_of(found)
        except CheckpointError:
            return False
        found = found.of(metadata.get("ss_output_name"))
        name = self._run_of(found).name
        newest = self._newest.get(name, 0)
        self._newest[name] = max(newest, step_of(found.place, metadata, newest))
        return True

    def _ours(self, found: Found) -> bool:
        """True unless an output name is given, and the file is of a run with another."""
        return "output_name" not in self.fixed or found.place.name in (None, self.run.output_name)

    def _ready(self, journal: Journal, found: Found) -> Iterator[Ready]:
        """A checkpoint that is new, complete, and has settled."""
        if not self._ours(found) or journal.knows(found):
            return
        metadata = self.waiting.ready(found)
        if metadata is not None:
            found = found.of(metadata.get("ss_output_name"))
            step, epoch = found.place.step, found.place.epoch
            order = (step is None and epoch is None, step_of(found.place, metadata, 0), epoch or 0)
            yield Ready(order, journal, found, metadata)

    def _submit(self, ready: Ready) -> None:
        """Hold a checkpoint and write its samples ahead.

        Raises:
            OSError: it cannot be kept, or its samples cannot be written.
        """
        journal, found = ready.journal, ready.whole
        run = self._run_of(found)
        step = step_of(found.place, ready.metadata, self._newest.get(run.name, 0))
        if reason := not_sampled(found.place.expert, run):
            self._leave_alone(journal, found, run, reason)
            return
        builder = self._builder(run)
        try:
            held = secure(ready.weights, Path(run.output_dir) / SNAPSHOT_DIR)
        except CheckpointError:
            return  # gone just now; the next look says what is there
        except ConfigError as error:  # the names of a pair's files and directories contradict each other
            self._leave_alone(journal, found, run, f"cannot be sampled: {error}")
            return
        submission = builder.build(step, found.place.epoch, held, expert=found.place.expert)
        if torn(submission):
            return
        spool = self._delivery.spool(run.output_dir)
        if self.base and run.name not in self._with_base:
            spool.write(builder.build(0, None, None))
            self._with_base.add(run.name)
        spool.write(submission)
        self._newest[run.name] = max(step, self._newest.get(run.name, 0))
        for known_in, file in ready.files:
            known_in.note(file, SAMPLED)
            known_in.save()
            self.waiting.done(file.path)
        self._announce(ready, run, step, submission)

    def _leave_alone(self, journal: Journal, found: Found, run: Run, reason: str) -> None:
        """Pass a checkpoint over that cannot be sampled as the flags say; the reason is reported once for its like."""
        journal.note(found, SKIPPED)
        journal.save()
        self.waiting.done(found.path)
        if (run.name, reason) not in self._refused:
            self._refused.add((run.name, reason))
            self.report(f"left alone: {found.shown} and further ones {reason}")

    def _announce(self, ready: Ready, run: Run, step: int, submission: Submission) -> None:
        epoch = ready.found.place.epoch
        place = f"step {step}" if epoch is None else f"step {step}, epoch {epoch}"
        names = " and ".join(found.shown for _, found in ready.files)
        self.report(f"{run.name}, {place}: {number_of_samples(len(submission.jobs))} of {names}")
        for refused in submission.refused:
            self.report(f"  prompt {refused.job.prompt_index} is not sampled: {refused.error.message}")

    def _builder(self, run: Run) -> SubmissionBuilder:
        key = run.name, run.label
        if key not in self._builders:
            self._builders[key] = SubmissionBuilder(run, self.prompts, self._lines)
        return self._builders[key]

    def _run_of(self, found: Found) -> Run:
        """The run that a checkpoint belongs to: named as the trainer itself would name it."""
        output_dir = str(self._output_dir(found.run_dir))
        output_name = self.run.output_name if "output_name" in self.fixed else found.place.name
        name = (
            self.run.name
            if "name" in self.fixed
            else run_name(of_both_experts(output_dir, short=self.search.short_experts), output_name)
        )
        label = "-".join(part for part in (found.place.label, found.place.expert) if part)
        return replace(self.run, name=name, output_dir=output_dir, output_name=output_name, label=label or None)

    def _step_key(self, found: Found) -> tuple[str, int | None, int | None, str | None]:
        """What the files of one step have in common, for whichever transformer they are."""
        place = found.place
        return self._run_of(found).name, place.step, place.epoch, place.label

    def _output_dir(self, directory: Path) -> Path:
        return Path(self.run.output_dir) if "output_dir" in self.fixed else directory

    def _journal_path(self, root: Path) -> Path:
        """One for each directory, also where all of them share an output directory."""
        own = self._output_dir(root) == root
        name = JOURNAL if own else f"{JOURNAL}-{digest(str(root), digits=8)}"
        return self._output_dir(root) / PRIVATE_DIR / f"{name}.json"


def torn(submission: Submission) -> bool:
    """True if the trainer wrote over the file, or removed it, while it was being held; what was held is removed again.

    Raises:
        OSError: it could not be held; the disk is full, for one.
    """
    checkpoint = next((job.checkpoint for job in submission.all if job.checkpoint), None)
    if checkpoint is None:
        return False
    if checkpoint.fingerprint == LOST:
        reason = submission.refused[-1].error
        if reason.code == CheckpointMissing.code:
            return True
        raise OSError(f"{checkpoint.path} cannot be kept: {reason.message}")
    try:
        read_header(checkpoint.path)
    except CheckpointError:
        release(checkpoint.path)
        return True
    return False


def number_of_samples(samples: int) -> str:
    """`1 sample`, `2 samples`."""
    return "1 sample" if samples == 1 else f"{samples} samples"
