"""``lora-cli serve-bench``: a small closed workload over the slots of a warm process, cold and hot told apart."""

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated

from lora_cli.cli import options, typer
from lora_cli.cli.lineup import Lineup, base_model, limits, lineup, reaching
from lora_cli.cli.output import Format, colour, width, write
from lora_cli.errors import LoraCliError, MissingExtra, Refused, UsageError
from lora_cli.render.text import safe
from lora_cli.settings import Settings

if TYPE_CHECKING:
    from lora_cli.bench.popularity import Popularity
    from lora_cli.bench.run import Served
    from lora_cli.core.base_model import BaseModel
    from lora_cli.core.results import BenchResult
    from lora_cli.runtime.plan import Device, Job, Limits
    from lora_cli.runtime.process import WarmProcess


@dataclass(frozen=True, slots=True)
class Workload:
    """How many requests, how skewed, from which seed."""

    requests: int
    popularity: "Popularity"
    seed: int


@dataclass(slots=True)
class Failures:
    """Adapters that cannot be served: why, and the exit code that each would end the command with."""

    reasons: dict[str, str] = field(default_factory=dict)
    code: int = 0

    def add(self, name: str, reason: str, code: int) -> None:
        """One more."""
        self.reasons[name] = reason
        self.code = max(self.code, code)


def command(
    ctx: typer.Context,
    refs: options.Refs = None,
    manifest: options.Manifest = None,
    base: options.Base = "",
    policy: options.PolicyFile = None,
    num_prompts: Annotated[int, typer.Option(min=1, max=1_000_000, help="How many requests.")] = 200,
    popularity: Annotated[
        str, typer.Option(help="zipf:S, uniform, round-robin, geometric:A or slora-power:A; the first adapter leads.")
    ] = "zipf:1.0",
    max_loras: Annotated[int | None, typer.Option(min=1, help="Adapters on the device at once.")] = None,
    max_cpu_loras: Annotated[int | None, typer.Option(min=1, help="Adapters in memory at once.")] = None,
    max_lora_rank: Annotated[int | None, typer.Option(min=1, help="The largest rank that a slot holds.")] = None,
    device: Annotated[str, typer.Option(help="What owns the slots: auto, cpu or cuda.")] = "auto",
    seed: Annotated[int, typer.Option(min=0, help="The same seed is the same workload, on every machine.")] = 0,
    output_format: options.OutputFormat = Format.HUMAN,
) -> None:
    """Measure what adapters cost, cold and warm: one request after the other over the slots of a warm process."""
    from lora_cli.bench.popularity import parse_popularity

    if find_spec("torch") is None:
        raise MissingExtra("serve-bench", "warm", "torch")
    asked = lineup(manifest, refs or [], base, "serve-bench", "measure")
    settings = reaching(ctx.obj, asked.manifest, policy)
    workload = Workload(num_prompts, parse_popularity(popularity), seed)
    most = limits(asked, max_loras, max_cpu_loras, max_lora_rank)
    failures = Failures()
    result = _measure(asked, most, workload, _device(device), settings, failures)
    write(_rendered(result, output_format))
    raise typer.Exit(failures.code)


def _device(word: str) -> "Device":
    for known in ("auto", "cpu", "cuda"):
        if word == known:
            return known
    raise UsageError(f"--device is auto, cpu or cuda, not {safe(word)}")


def _measure(
    asked: Lineup, most: "Limits", workload: Workload, device: "Device", settings: Settings, failures: Failures
) -> "BenchResult":
    """Admit the adapters, start the warm process, and send the workload through it."""
    from lora_cli.bench.run import Setup, environment, run_trace
    from lora_cli.bench.workload import make_trace
    from lora_cli.runtime.plan import lay_out
    from lora_cli.runtime.process import WarmProcess

    base = base_model(asked.base, settings)
    jobs = {job.name: job for job in _jobs(asked, base, most, settings, failures)}
    names = [item.name for item in asked.items]
    trace = make_trace(names, workload.popularity, workload.requests, workload.seed)
    facts = {"base": str(asked.base), "popularity": str(workload.popularity)}
    setup = Setup(len(names), most.max_loras, most.max_cpu_loras, workload.seed, environment(**facts))
    if not jobs:
        return run_trace(trace, _nothing, setup, failed=failures.reasons)
    plan = lay_out(base, list(jobs.values()), most, device=device, seed=workload.seed, cache_dir=settings.cache_dir)
    with WarmProcess(plan) as process:
        ready = process.start()
        setup = replace(setup, environment=environment(**facts, device=ready.device, dtype=ready.dtype))
        serve, progress = _server(process, jobs, failures), _counter(len(trace), settings)
        return run_trace(trace, serve, setup, failed=dict(failures.reasons), progress=progress)


def _jobs(asked: Lineup, base: "BaseModel", most: "Limits", settings: Settings, failures: Failures) -> "Iterator[Job]":
    """The adapters that can be served, on this disk; the others are noted in ``failures``."""
    from lora_cli.check import Terms
    from lora_cli.check.admission import admit
    from lora_cli.runtime.composable import scalings
    from lora_cli.runtime.plan import Job
    from lora_cli.sources.registry import Sources
    from lora_cli.store import Store

    terms, store = Terms(base, max_lora_rank=most.max_lora_rank), Store(settings.cache_dir)
    sources = Sources(settings)
    for item in asked.items:
        admission = admit(
            item.source,
            item.name,
            terms,
            store,
            settings,
            demand=asked.demand(item),
            sources=sources,
            latest=item.latest,
        )
        try:
            if admission.refusal is not None:
                raise admission.refusal
            assert admission.snapshot is not None
            assert admission.adapter is not None
            scalings(admission.adapter, base)
        except LoraCliError as error:
            failures.add(item.name, error.message, error.exit_code)
        else:
            snapshot = admission.snapshot
            yield Job(item.name, snapshot.directory, admission.adapter, snapshot.digest, item.pinned)


def _server(process: "WarmProcess", jobs: "Mapping[str, Job]", failures: Failures) -> "Callable[[str], Served]":
    """What a trace is run against: the adapter into its slot, and a small batch through it."""
    from lora_cli.bench.run import Served

    def serve(name: str) -> Served:
        job = jobs[name]
        try:
            served = process.serve(job)
        except LoraCliError as error:
            # The tiers know an adapter by its digest; people know it by its name.
            error.message = error.message.replace(job.key, name)
            failures.add(name, error.message, error.exit_code)
            raise
        evicted = {str(tier): count for tier, count in served.evicted.items()}
        return Served(served.tier, served.load_ms + served.forward_ms, evicted)

    return serve


def _nothing(name: str) -> "Served":
    raise Refused(f"{name} cannot be served")


def _counter(total: int, settings: Settings) -> Callable[[int], None]:
    """Says on a terminal how many requests are done; elsewhere nothing."""
    if settings.quiet or settings.no_progress or not sys.stderr.isatty():
        return lambda _done: None
    step = max(1, total // 100)

    def tell(done: int) -> None:
        if done % step == 0 or done == total:
            typer.echo(f"\r{done} of {total} requests" + ("\n" if done == total else ""), err=True, nl=False)

    return tell


def _rendered(result: "BenchResult", output_format: Format) -> str:
    if output_format is Format.JSON:
        from lora_cli.render.json import render_bench

        return render_bench(result)
    from lora_cli.render.human.bench import render_bench as render_table

    return render_table(result, width(), colour=colour())
