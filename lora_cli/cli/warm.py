"""``lora-cli warm``: fetch, validate, load and prove adapters in a process that owns the device."""

from collections.abc import Callable, Iterator, Sequence
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from lora_cli.cli import options, typer
from lora_cli.cli.lineup import Item, Lineup, base_model, limits, lineup, reaching
from lora_cli.cli.output import Format, colour, width, write
from lora_cli.core.frozen import dataclass, replace
from lora_cli.core.reference import AdapterRef
from lora_cli.core.results import Answers, LoadReport
from lora_cli.errors import LoraCliError, UsageError
from lora_cli.settings import Settings

if TYPE_CHECKING:
    from lora_cli.check.admission import Admission
    from lora_cli.runtime.plan import Job, Limits
    from lora_cli.runtime.process import WarmProcess
    from lora_cli.store.holds import Hold


class Device(StrEnum):
    """What owns the slots; ``auto`` is CUDA where there is one."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


class Forward(StrEnum):
    """What is run: every targeted module on its own, or also the whole model through transformers."""

    MODULES = "modules"
    MODEL = "model"


class Eviction(StrEnum):
    """Who leaves the slots or the memory when they are full; the names of ``tiers.eviction.registry``."""

    LRU = "lru"
    LFU = "lfu"
    GDSF = "gdsf"
    ADAPTIVE = "adaptive"


@dataclass(frozen=True, slots=True)
class Run:
    """What the warm process is to do, and with how much."""

    limits: "Limits"
    device: Device
    forward: Forward
    eviction: Eviction
    prompt: str
    max_tokens: int


def command(
    ctx: typer.Context,
    refs: options.Refs = None,
    manifest: options.Manifest = None,
    checkpoint: options.Checkpoint = "",
    base: options.Base = "",
    policy: options.PolicyFile = None,
    once: Annotated[bool, typer.Option("--once", help="Prove all, print a table, and end.")] = False,
    max_loras: Annotated[int | None, typer.Option(min=1, help="Slots: adapters on the device at once.")] = None,
    max_cpu_loras: Annotated[int | None, typer.Option(min=1, help="Adapters in memory at once.")] = None,
    max_lora_rank: Annotated[int | None, typer.Option(min=1, help="The largest rank that a slot takes.")] = None,
    device: Annotated[Device, typer.Option(help="What owns the slots.")] = Device.AUTO,
    forward: Annotated[Forward, typer.Option(help="Prove modules, or run the whole model too.")] = Forward.MODULES,
    eviction: Annotated[
        Eviction, typer.Option(help="Who leaves slots or memory that are full; adaptive follows whichever does best.")
    ] = Eviction.ADAPTIVE,
    prompt: Annotated[str, typer.Option(help="Answer this without and with each adapter.")] = "",
    max_tokens: Annotated[int, typer.Option(min=1, max=4096, help="The longest answer.")] = 40,
    output_format: options.OutputFormat = Format.HUMAN,
) -> None:
    """Load adapters into a warm process and prove that they work."""
    if not once:
        raise UsageError("this version of warm does not stay up", hint="--once proves all adapters and ends")
    if prompt and forward is not Forward.MODEL:
        raise UsageError("--prompt needs the whole model", hint="--forward model")
    asked = lineup(manifest, refs or [], base, "warm", "warm", checkpoint)
    settings = reaching(ctx.obj, asked.manifest, policy)
    most = limits(asked, max_loras, max_cpu_loras, max_lora_rank)
    from lora_cli.store import Store
    from lora_cli.store.holds import holding

    with holding(Store(settings.cache_dir)) as hold:
        reports, answers = _warm(asked, Run(most, device, forward, eviction, prompt, max_tokens), settings, hold)
    write(_rendered(reports, answers, output_format))
    raise typer.Exit(max((report.exit_code for report in reports), default=0))


def _warm(asked: Lineup, run: Run, settings: Settings, hold: "Hold") -> tuple[list[LoadReport], list[Answers]]:
    """Every adapter's report, in the order asked for, and the answers of those that were proved."""
    from lora_cli.check import Terms
    from lora_cli.check.admission import admit
    from lora_cli.runtime.plan import lay_out
    from lora_cli.runtime.process import WarmProcess, require
    from lora_cli.sources.registry import Sources
    from lora_cli.store import Store

    require(run.forward.value)
    base = base_model(asked.base, settings)
    terms, store = Terms(base, max_lora_rank=run.limits.max_lora_rank), Store(settings.cache_dir)
    admit_one = partial(admit, terms=terms, store=store, settings=settings, sources=Sources(settings), hold=hold)
    admitted = [
        _reported(item, admit_one(item.source, item.name, demand=asked.demand(item), latest=item.latest))
        for item in asked.items
    ]
    jobs = [job for _, job in admitted if job is not None]
    answers: list[Answers] = []
    if not jobs:
        return [report for report, _ in admitted], answers
    plan = lay_out(
        base,
        jobs,
        run.limits,
        base_directory=_base_directory(asked.base),
        device=run.device.value,
        forward=run.forward.value,
        cache_dir=settings.cache_dir,
        eviction=run.eviction.value,
    )
    with WarmProcess(plan, tell=_teller(settings)) as process:
        for note in process.start().notes:
            _say(note, settings)
        reports = [_load(report, job, process, run, answers) for report, job in admitted]
    return reports, answers


def _reported(item: Item, admission: "Admission") -> "tuple[LoadReport, Job | None]":
    """One adapter's report as far as it came, and its job when nothing kept it out."""
    from lora_cli.runtime.plan import Job

    snapshot, verdict = admission.snapshot, admission.verdict
    report = LoadReport(
        item.name,
        digest=snapshot.digest if snapshot is not None else "",
        applied=str(verdict.applied or "") if verdict is not None else "",
        stage_ms=admission.stage_ms,
    )
    refusal = admission.refusal
    if refusal is not None:
        return _failed(report, admission.stage, refusal), None
    assert snapshot is not None
    assert admission.adapter is not None
    return report, Job(item.name, snapshot.directory, admission.adapter, snapshot.digest, item.pinned)


def _failed(report: LoadReport, stage: str, error: LoraCliError) -> LoadReport:
    return replace(report, stage=stage, error=error.message, hint=error.hint, exit_code=error.exit_code)


def _base_directory(named: str | AdapterRef) -> Path | None:
    """Where the base's weights may be: a directory on this disk, else nowhere."""
    from lora_cli.check import is_path
    from lora_cli.core.reference import parse

    ref = parse(named, is_path=is_path) if isinstance(named, str) else named
    directory = Path(ref.location) / ref.subfolder
    return directory if ref.scheme == "file" and directory.is_dir() else None


def _load(
    report: LoadReport, job: "Job | None", process: "WarmProcess", run: Run, answers: list[Answers]
) -> LoadReport:
    """The report of an accepted adapter, loaded and proved; its answer is added to ``answers``."""
    if job is None:
        return report
    loaded = process.load(job)
    loaded = replace(loaded, applied=report.applied, stage_ms={**report.stage_ms, **loaded.stage_ms})
    if run.prompt and not loaded.error:
        try:
            answers.append(process.answer(job, run.prompt, run.max_tokens))
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
