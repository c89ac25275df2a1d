"""``lora-cli warm --once``: every adapter fetched, validated, loaded and proved, one after the other."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from lora_cli.cli.adapter_selection import Lineup, base_model
from lora_cli.cli.output import about, note, write, write_result
from lora_cli.cli.progress import RunProgress, shown_stages
from lora_cli.cli.warm_options import WarmOptions
from lora_cli.cli.warm_plan import Copies, Run, admitting, planned, say, tell_stage
from lora_cli.core.results import Answers, LoadReport, PageCache
from lora_cli.core.snapshot import Snapshot
from lora_cli.errors import INTERRUPTED, LoraCliError
from lora_cli.render.prometheus_metrics import render_load_metrics
from lora_cli.render.terminal import apart
from lora_cli.render.terminal_warm import answer_parts, load_parts
from lora_cli.render.warm_report import WarmReport
from lora_cli.runtime.load_jobs import continued, reported
from lora_cli.runtime.messages import Job
from lora_cli.runtime.plan import Plan, lay_out, needs_of
from lora_cli.runtime.warm_process import WarmProcess, require
from lora_cli.settings import Settings
from lora_cli.store import Store
from lora_cli.store.in_use import InUseMarker
from lora_cli.store.page_cache import Resident, folder_residency
from lora_cli.validation import Terms

Accepted = tuple[int, LoadReport, Job, Snapshot]
"""The place of an adapter in the run, its report so far, its job, and its files."""


def prove_once(asked: Lineup, run: Run, once: WarmOptions, settings: Settings) -> int:
    """Report every adapter; gives the largest of their exit codes.

    Raises:
        MachineError: a file cannot be written.
    """
    reports, answers = warm_once(asked, run, once, settings)
    parts = apart(load_parts(reports, quiet=settings.quiet), answer_parts(() if settings.quiet else answers))
    write_result(WarmReport(adapters=reports, answers=answers), once.output_format, parts)
    if asked.engine is not None and asked.manifest is not None and not all(report.error for report in reports):
        check = f"lora-cli validate -f {asked.manifest.file}"
        say(f"the proofs follow PEFT; to check the adapters for {asked.engine.name}: {check}", settings)
    if once.metrics_file is not None:
        write(render_load_metrics(reports), once.metrics_file)
    if failed := [report for report in reports if report.error]:
        note("\n".join(about(one.name, one.error, one.stage) for one in failed))
    code = max((report.exit_code for report in reports), default=0)
    if once.ready_file is not None and code == 0:
        write(json.dumps({"pid": None, "proved": len(reports)}) + "\n", once.ready_file)
    return code


def warm_once(asked: Lineup, run: Run, once: WarmOptions, settings: Settings) -> tuple[list[LoadReport], list[Answers]]:
    """Every adapter's report, in the order asked for, and the answers of those that were proved.

    What an interrupt leaves undone is reported as such.
    """
    require(run.forward)
    base, store = base_model(asked.base, settings), Store(settings.cache_dir)
    terms = Terms(base, max_lora_rank=run.limits.max_lora_rank or None)
    watched = Watched(store, run.copies) if once.residency else None
    undone = LoadReport("", error="not done: interrupted", exit_code=INTERRUPTED)
    reports, answers = [replace(undone, name=item.name) for item in asked.items], list[Answers]()
    with InUseMarker(store) as hold, shown_stages(settings, len(asked.items)) as shown:

        def hear(name: str, stage: str, snapshot: Snapshot | None) -> None:
            shown.hear(name, stage)
            if watched is not None:
                watched.hear(name, stage, snapshot)

        admit = admitting(terms, settings, hold, hear=hear, progress=shown)
        with suppress(KeyboardInterrupt):
            accepted: list[Accepted] = []
            for place, item in enumerate(asked.items):
                admission = admit(item)
                report, job = reported(item, admission)
                if job is None or admission.snapshot is None:
                    reports[place] = report
                else:
                    accepted.append((place, report, job, admission.snapshot))
                shown.passed(failed=job is None)
            if accepted:
                needs = [needs_of(job.adapter, base) for _, _, job, _ in accepted]
                plan = lay_out(planned(asked, run, base, settings), needs)
                for place, report, snapshot in _loaded(accepted, plan, once, answers, shown, settings):
                    reports[place] = report
                    if run.copies is not None and not report.error:
                        shown.hear(report.name, "tier")
                        reports[place] = run.copies.proved(store, report, snapshot)
                    shown.passed(failed=bool(reports[place].error))
        if watched is not None:
            reports = [watched.told(report) for report in reports]
    return reports, answers


def _loaded(
    accepted: Sequence[Accepted],
    plan: Plan,
    once: WarmOptions,
    answers: list[Answers],
    shown: RunProgress,
    settings: Settings,
) -> Iterator[tuple[int, LoadReport, Snapshot]]:
    """The report of each, loaded and proved in a warm process; ``answers`` are added to."""

    def tell(name: str, stage: str) -> None:
        shown.hear(name, stage)
        tell_stage(settings, name, stage)

    shown.go_on("proved", len(accepted))
    with WarmProcess(plan, tell=tell) as process:
        shown.hear("warm process", "start")
        for note in process.start().notes:
            say(note, settings)
        for place, report, job, snapshot in accepted:
            loaded = continued(report, process.load(job))
            if once.prompt and not loaded.error:
                try:
                    answers.append(process.answer(job, once.prompt, once.max_tokens))
                except LoraCliError as error:
                    loaded = loaded.failed("answer", error)
            yield place, loaded, snapshot


class Watched:
    """What of each adapter's files was in memory when they were first seen, for ``--residency``."""

    def __init__(self, store: Store, copies: Copies | None) -> None:
        self._store, self._copies = store, copies
        self._before: dict[str, Mapping[Path, Resident]] = {}

    def hear(self, name: str, _stage: str, snapshot: Snapshot | None) -> None:
        """Looks at an adapter's files once they are on this disk, before the run reads them."""
        if snapshot is not None and name not in self._before:
            places = self._places(name, snapshot.digest).values()
            self._before[name] = {place: folder_residency(place) for place in places}

    def told(self, report: LoadReport) -> LoadReport:
        """The report with what is in memory now, next to what was; without it where nothing came to this disk."""
        before = self._before.get(report.name)
        if before is None:
            return report
        seen: dict[str, PageCache] = {}
        for kind, place in self._places(report.name, report.digest).items():
            now = folder_residency(place)
            if now.bytes:
                seen[kind] = PageCache(now.bytes, before[place].resident_bytes, now.resident_bytes)
        return replace(report, residency=seen)

    def _places(self, name: str, digest: str) -> Mapping[str, Path]:
        copy = self._copies.place(name) if self._copies is not None else None
        places = {"snapshot": self._store.snapshot(digest), "packed": self._store.packed / digest}
        return places if copy is None else {**places, "copy": copy}
