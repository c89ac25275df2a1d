"""``lora-cli warm``: fetch, validate, load and prove adapters in a process that owns the device."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lora_cli.cli.output import Format, colour, width, write
from lora_cli.core.reference import AdapterRef
from lora_cli.core.results import Answers, LoadReport
from lora_cli.errors import Corrupt, LoraCliError, UsageError
from lora_cli.settings import Settings

if TYPE_CHECKING:
    from lora_cli.check import Admission, Terms
    from lora_cli.core.base_model import BaseModel
    from lora_cli.core.finding import Verdict
    from lora_cli.core.manifest import AdapterSet, EngineSpec
    from lora_cli.runtime.plan import Job, Plan
    from lora_cli.runtime.process import WarmProcess
    from lora_cli.store import Store

MAX_LORAS, MAX_CPU_LORAS = 8, 32
"""How many slots and places in memory there are at most, when nobody says."""


class Device(StrEnum):
    """What owns the slots; ``auto`` is CUDA where there is one."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


class Forward(StrEnum):
    """What is run: every targeted module on its own, or also the whole model through transformers."""

    MODULES = "modules"
    MODEL = "model"


@dataclass(frozen=True, slots=True)
class Item:
    """One adapter that was asked for. ``sha256`` is the snapshot digest that it must have."""

    name: str
    source: str | AdapterRef
    sha256: str | None = None
    pinned: bool = False


@dataclass(frozen=True, slots=True)
class Wish:
    """What the flags say about the process; None where they say nothing."""

    max_loras: int | None
    max_cpu_loras: int | None
    max_lora_rank: int | None
    device: Device
    forward: Forward
    prompt: str
    max_tokens: int


def command(
    ctx: typer.Context,
    refs: Annotated[list[str] | None, typer.Argument(metavar="REF...", help="Paths or references.")] = None,
    manifest: Annotated[Path | None, typer.Option("--manifest", "-f", help="An adapter set instead of REFs.")] = None,
    base: Annotated[str, typer.Option(help="The base: a directory, a config.json, a Hub id or a reference.")] = "",
    once: Annotated[bool, typer.Option("--once", help="Prove all, print a table, and end.")] = False,
    max_loras: Annotated[int | None, typer.Option(min=1, help="Slots: adapters on the device at once.")] = None,
    max_cpu_loras: Annotated[int | None, typer.Option(min=1, help="Adapters in memory at once.")] = None,
    max_lora_rank: Annotated[int | None, typer.Option(min=1, help="The largest rank that a slot takes.")] = None,
    device: Annotated[Device, typer.Option(help="What owns the slots.")] = Device.AUTO,
    forward: Annotated[Forward, typer.Option(help="Prove modules, or run the whole model too.")] = Forward.MODULES,
    prompt: Annotated[str, typer.Option(help="Answer this without and with each adapter.")] = "",
    max_tokens: Annotated[int, typer.Option(min=1, max=4096, help="The longest answer.")] = 40,
    output_format: Annotated[Format, typer.Option("--format", help="How to write the result.")] = Format.HUMAN,
) -> None:
    """Load adapters into a warm process and prove that they work."""
    settings: Settings = ctx.obj
    if not once:
        raise UsageError("this version of warm does not stay up", hint="--once proves all adapters and ends")
    if prompt and forward is not Forward.MODEL:
        raise UsageError("--prompt needs the whole model", hint="--forward model")
    adapter_set = _adapter_set(manifest, refs or [])
    named = base or (adapter_set.base if adapter_set is not None else None)
    if not named:
        raise UsageError("warm needs a base model", hint="--base DIRECTORY, config.json or ORG/NAME")
    engine = adapter_set.engine if adapter_set is not None else None
    wish = _with_engine(Wish(max_loras, max_cpu_loras, max_lora_rank, device, forward, prompt, max_tokens), engine)
    reports, answers = _warm(_items(adapter_set, refs or []), named, wish, settings)
    write(_rendered(reports, answers, output_format))
    raise typer.Exit(max((report.exit_code for report in reports), default=0))


def _adapter_set(manifest: Path | None, refs: Sequence[str]) -> "AdapterSet | None":
    if manifest is not None and refs:
        raise UsageError("REFs and -f exclude each other", hint="leave one of them out")
    if manifest is None:
        if not refs:
            raise UsageError("there is nothing to warm", hint="name adapters, or an adapter set with -f")
        return None
    from lora_cli.read.manifest import read_manifest

    return read_manifest(manifest)


def _items(adapter_set: "AdapterSet | None", refs: Sequence[str]) -> tuple[Item, ...]:
    if adapter_set is None:
        return tuple(Item(ref, ref) for ref in refs)
    return tuple(Item(one.name, one.source, one.sha256, one.pinned) for one in adapter_set.adapters)


def _with_engine(wish: Wish, engine: "EngineSpec | None") -> Wish:
    """Flags override the manifest; memory holds at least what the slots do, as in vLLM."""
    if engine is not None:
        wish = replace(
            wish,
            max_loras=wish.max_loras or engine.max_loras,
            max_cpu_loras=wish.max_cpu_loras or engine.max_cpu_loras,
            max_lora_rank=wish.max_lora_rank or engine.max_lora_rank,
        )
    if wish.max_cpu_loras is not None and wish.max_cpu_loras < (wish.max_loras or 1):
        raise UsageError(
            f"max_cpu_loras is {wish.max_cpu_loras}, less than max_loras, which is {wish.max_loras}",
            hint=f"--max-cpu-loras {wish.max_loras}",
        )
    return wish


def _warm(
    items: Sequence[Item], named: str | AdapterRef, wish: Wish, settings: Settings
) -> tuple[list[LoadReport], list[Answers]]:
    """Every adapter's report, in the order asked for, and the answers of those that were proved."""
    from lora_cli.check import Terms, open_base
    from lora_cli.runtime.process import require
    from lora_cli.store import Store

    require(wish.forward.value)
    base = open_base(named, settings)
    terms = Terms(base, max_lora_rank=wish.max_lora_rank)
    store = Store(settings.cache_dir)
    admitted = [_admit(item, terms, store, settings) for item in items]
    jobs = [job for _, job in admitted if job is not None]
    answers: list[Answers] = []
    if not jobs:
        return [report for report, _ in admitted], answers
    from lora_cli.runtime.process import WarmProcess

    with WarmProcess(_plan(jobs, base, named, wish), tell=_teller(settings)) as process:
        for note in process.start().notes:
            _say(note, settings)
        reports = [_load(report, job, process, wish, answers) for report, job in admitted]
    return reports, answers


def _admit(item: Item, terms: "Terms", store: "Store", settings: Settings) -> "tuple[LoadReport, Job | None]":
    """One adapter fetched and judged: its report so far, and its job when it was accepted."""
    from lora_cli.check import admit, is_path
    from lora_cli.core.reference import parse
    from lora_cli.runtime.plan import Job

    try:
        ref = parse(item.source, is_path=is_path) if isinstance(item.source, str) else item.source
    except UsageError as error:
        return _failed(LoadReport(item.name), "resolve", error), None
    admission = admit(ref, item.name, terms, store, settings)
    snapshot, verdict = admission.snapshot, admission.verdict
    report = LoadReport(item.name, stage_ms=admission.stage_ms)
    if snapshot is not None:
        report = replace(report, digest=snapshot.digest)
        if item.sha256 not in (None, snapshot.digest):
            reason = f"its snapshot is sha256 {snapshot.digest}, and the manifest demands {item.sha256}"
            return _failed(report, "fetch", Corrupt(reason, hint="the adapter changed since it was listed")), None
    if admission.error is not None:
        return _failed(report, admission.stage, admission.error), None
    assert snapshot is not None
    assert verdict is not None
    assert admission.adapter is not None
    report = replace(report, applied=str(verdict.applied or ""))
    if not admission.accepted:
        return _refused(report, verdict, admission), None
    return report, Job(item.name, snapshot.directory, admission.adapter, snapshot.digest, item.pinned)


def _failed(report: LoadReport, stage: str, error: LoraCliError) -> LoadReport:
    return replace(report, stage=stage, error=error.message, hint=error.hint, exit_code=error.exit_code)


def _refused(report: LoadReport, verdict: "Verdict", admission: "Admission") -> LoadReport:
    """The first error that validation found, and how many there are."""
    from lora_cli.core.finding import Severity

    errors = [finding for finding in verdict.findings if finding.severity is Severity.ERROR]
    first = errors[0]
    more = f" (and {len(errors) - 1} more: lora-cli validate lists them)" if len(errors) > 1 else ""
    where = f"{first.problem.at}: " if str(first.problem.at) else ""
    said = f"{first.code} {first.name}: {where}{first.problem.message}{more}"
    return replace(report, stage=admission.stage, error=said, hint=first.problem.hint, exit_code=1)


def _plan(jobs: "Sequence[Job]", base: "BaseModel", named: str | AdapterRef, wish: Wish) -> "Plan":
    """As many slots as there are adapters, up to a bound, and as wide as the largest rank, unless it is said."""
    from lora_cli.runtime.composable import largest_rank
    from lora_cli.runtime.plan import Plan

    used = {module for job in jobs for module in job.adapter.pairs}
    loras = wish.max_loras or min(MAX_LORAS, len(jobs))
    return Plan(
        base=base,
        modules=tuple(module for module in base.modules if module in used),
        max_loras=loras,
        max_cpu_loras=wish.max_cpu_loras or max(loras, min(MAX_CPU_LORAS, len(jobs))),
        max_lora_rank=wish.max_lora_rank or max(largest_rank(job.adapter) for job in jobs),
        base_directory=_base_directory(named),
        device=wish.device.value,
        forward=wish.forward.value,
    )


def _base_directory(named: str | AdapterRef) -> Path | None:
    """Where the base's weights may be: a directory on this disk, else nowhere."""
    from lora_cli.check import is_path
    from lora_cli.core.reference import parse

    ref = parse(named, is_path=is_path) if isinstance(named, str) else named
    directory = Path(ref.location) / ref.subfolder
    return directory if ref.scheme == "file" and directory.is_dir() else None


def _load(
    report: LoadReport, job: "Job | None", process: "WarmProcess", wish: Wish, answers: list[Answers]
) -> LoadReport:
    """The report of an accepted adapter, loaded and proved; its answer is added to ``answers``."""
    if job is None:
        return report
    loaded = process.load(job)
    loaded = replace(loaded, applied=report.applied, stage_ms={**report.stage_ms, **loaded.stage_ms})
    if wish.prompt and not loaded.error:
        try:
            answers.append(process.answer(job, wish.prompt, wish.max_tokens))
        except LoraCliError as error:
            return _failed(loaded, "answer", error)
    return loaded


def _rendered(reports: Sequence[LoadReport], answers: Sequence[Answers], output_format: Format) -> str:
    if output_format is Format.JSON:
        from lora_cli.render import json

        return json.render_load_reports(reports, answers)
    return "\n".join(_human(reports, answers))


def _human(reports: Sequence[LoadReport], answers: Sequence[Answers]) -> Iterator[str]:
    from lora_cli.render.human.loads import render_answers, render_load_reports

    yield render_load_reports(reports, width(), colour=colour())
    if answers:
        yield render_answers(answers, width(), colour=colour())


def _teller(settings: Settings) -> Callable[[str, str], None]:
    """Each stage as it begins, with ``--verbose``."""

    def tell(name: str, stage: str) -> None:
        if settings.verbose:
            _say(f"{name}: {stage}", settings)

    return tell


def _say(note: str, settings: Settings) -> None:
    """Talk for the user, on standard error."""
    if not settings.quiet:
        from lora_cli.render.text import safe

        typer.echo(safe(note), err=True)
