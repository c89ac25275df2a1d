"""``lora-cli serve-bench``: a small closed workload over the slots of a warm process, cold and hot told apart."""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lora_cli.cli.output import Format, colour, width, write
from lora_cli.core.reference import AdapterRef
from lora_cli.errors import LoraCliError, MissingExtra, Refused, UsageError
from lora_cli.render.text import safe
from lora_cli.settings import Settings

if TYPE_CHECKING:
    from lora_cli.bench.popularity import Popularity
    from lora_cli.bench.run import Served
    from lora_cli.check import Admission, Terms
    from lora_cli.core.base_model import BaseModel
    from lora_cli.core.manifest import AdapterSet, EngineSpec
    from lora_cli.core.results import BenchResult
    from lora_cli.fetch.demand import Demand
    from lora_cli.runtime.plan import Device, Job, Plan
    from lora_cli.runtime.process import WarmProcess
    from lora_cli.store import Store

MAX_LORAS, MAX_CPU_LORAS = 8, 32
"""The tiers when nobody says, as those of ``warm``."""


@dataclass(frozen=True, slots=True)
class Item:
    """One adapter that was asked for: as the manifest names it, or as the command line writes it."""

    name: str
    source: str | AdapterRef
    demand: "Demand"
    pinned: bool = False


@dataclass(frozen=True, slots=True)
class Limits:
    """The tiers, in vLLM's words; ``max_lora_rank`` None is the largest rank there is."""

    max_loras: int
    max_cpu_loras: int
    max_lora_rank: int | None


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
    refs: Annotated[list[str] | None, typer.Argument(metavar="REF...", help="Paths or references.")] = None,
    manifest: Annotated[Path | None, typer.Option("--manifest", "-f", help="An adapter set instead of REFs.")] = None,
    base: Annotated[str, typer.Option(help="The base: a directory, a config.json, a Hub id or a reference.")] = "",
    num_prompts: Annotated[int, typer.Option(min=1, max=1_000_000, help="How many requests.")] = 200,
    popularity: Annotated[
        str, typer.Option(help="zipf:S, uniform, round-robin, geometric:A or slora-power:A; the first adapter leads.")
    ] = "zipf:1.0",
    max_loras: Annotated[int | None, typer.Option(min=1, help="Adapters on the device at once.")] = None,
    max_cpu_loras: Annotated[int | None, typer.Option(min=1, help="Adapters in memory at once.")] = None,
    max_lora_rank: Annotated[int | None, typer.Option(min=1, help="The largest rank that a slot holds.")] = None,
    device: Annotated[str, typer.Option(help="What owns the slots: auto, cpu or cuda.")] = "auto",
    seed: Annotated[int, typer.Option(min=0, help="The same seed is the same workload, on every machine.")] = 0,
    output_format: Annotated[Format, typer.Option("--format", help="How to write the result.")] = Format.HUMAN,
) -> None:
    """Measure what adapters cost, cold and warm: one request after the other over the slots of a warm process."""
    from lora_cli.bench.popularity import parse_popularity

    if find_spec("torch") is None:
        raise MissingExtra("serve-bench", "warm", "torch")
    settings: Settings = ctx.obj
    adapter_set = _adapter_set(manifest, refs or [])
    named = base or (adapter_set.base if adapter_set is not None else None)
    if not named:
        raise UsageError("serve-bench needs a base model", hint="--base DIRECTORY, config.json or ORG/NAME")
    workload = Workload(num_prompts, parse_popularity(popularity), seed)
    limits = _limits(adapter_set.engine if adapter_set else None, max_loras, max_cpu_loras, max_lora_rank)
    failures = Failures()
    result = _measure(_items(adapter_set, refs or []), named, limits, workload, _device(device), settings, failures)
    write(_rendered(result, output_format))
    raise typer.Exit(failures.code)


def _adapter_set(manifest: Path | None, refs: Sequence[str]) -> "AdapterSet | None":
    if manifest is not None and refs:
        raise UsageError("REFs and -f exclude each other", hint="leave one of them out")
    if manifest is None:
        if not refs:
            raise UsageError("there is nothing to measure", hint="name adapters, or an adapter set with -f")
        return None
    from lora_cli.read.manifest import read_manifest

    return read_manifest(manifest)


def _items(adapter_set: "AdapterSet | None", refs: Sequence[str]) -> tuple[Item, ...]:
    from lora_cli.fetch.demand import Demand

    if adapter_set is None:
        return tuple(Item(ref, ref, Demand()) for ref in dict.fromkeys(refs))
    policy = adapter_set.policy
    return tuple(
        Item(entry.name, entry.source, Demand(policy, entry.sha256), entry.pinned) for entry in adapter_set.adapters
    )


def _device(word: str) -> "Device":
    for known in ("auto", "cpu", "cuda"):
        if word == known:
            return known
    raise UsageError(f"--device is auto, cpu or cuda, not {safe(word)}")


def _limits(
    engine: "EngineSpec | None", max_loras: int | None, max_cpu_loras: int | None, max_lora_rank: int | None
) -> Limits:
    """Flags, else the manifest's engine, else our own; memory holds at least what the device does, as in vLLM."""
    loras = max_loras or (engine and engine.max_loras) or MAX_LORAS
    if max_cpu_loras is not None and max_cpu_loras < loras:
        raise UsageError(
            f"--max-cpu-loras {max_cpu_loras} is less than max_loras, which is {loras}", hint=f"at least {loras}"
        )
    cpu_loras = max_cpu_loras or max(loras, (engine and engine.max_cpu_loras) or MAX_CPU_LORAS)
    return Limits(loras, cpu_loras, max_lora_rank or (engine.max_lora_rank if engine else None))


def _measure(
    items: Sequence[Item],
    base: str | AdapterRef,
    limits: Limits,
    workload: Workload,
    device: "Device",
    settings: Settings,
    failures: Failures,
) -> "BenchResult":
    """Admit the adapters, start the warm process, and send the workload through it."""
    from lora_cli.bench.run import Setup, environment, run_trace
    from lora_cli.bench.workload import make_trace
    from lora_cli.check import open_base
    from lora_cli.runtime.process import WarmProcess

    model = open_base(base, settings)
    jobs = {job.name: job for job in _jobs(items, model, limits, settings, failures)}
    names = [item.name for item in items]
    trace = make_trace(names, workload.popularity, workload.requests, workload.seed)
    facts = {"base": str(base), "popularity": str(workload.popularity)}
    setup = Setup(len(items), limits.max_loras, limits.max_cpu_loras, workload.seed, environment(**facts))
    progress = _counter(len(trace), settings)
    if not jobs:
        return run_trace(trace, _nothing, setup, failed=failures.reasons)
    with WarmProcess(_plan(model, jobs.values(), limits, device, workload.seed)) as process:
        ready = process.start()
        setup = replace(setup, environment=environment(**facts, device=ready.device, dtype=ready.dtype))
        serve = _server(process, jobs, failures)
        return run_trace(trace, serve, setup, failed=dict(failures.reasons), progress=progress)


def _jobs(
    items: Sequence[Item], base: "BaseModel", limits: Limits, settings: Settings, failures: Failures
) -> "Iterator[Job]":
    """The adapters that can be served, on this disk; the others are noted in ``failures``."""
    from lora_cli.check import Terms
    from lora_cli.runtime.composable import scalings
    from lora_cli.runtime.plan import Job
    from lora_cli.store import Store

    terms, store = Terms(base, max_lora_rank=limits.max_lora_rank), Store(settings.cache_dir)
    for item in items:
        try:
            admission = _admitted(item, terms, store, settings)
            assert admission.snapshot is not None
            assert admission.adapter is not None
            scalings(admission.adapter, base)
        except LoraCliError as error:
            failures.add(item.name, error.message, error.exit_code)
        else:
            snapshot = admission.snapshot
            yield Job(item.name, snapshot.directory, admission.adapter, snapshot.digest, item.pinned)


def _admitted(item: Item, terms: "Terms", store: "Store", settings: Settings) -> "Admission":
    """One adapter, fetched and accepted; the manifest's policy and digest are held to, and its ``max_bytes`` too."""
    from lora_cli.check import admit, is_path
    from lora_cli.core.reference import parse
    from lora_cli.fetch.demand import check_reference, check_snapshot

    source = item.source if isinstance(item.source, AdapterRef) else parse(item.source, is_path=is_path)
    check_reference(item.demand, source, settings)
    limits = [limit for limit in (settings.max_bytes, item.demand.policy.max_bytes) if limit is not None]
    admission = admit(source, item.name, terms, store, replace(settings, max_bytes=min(limits, default=None)))
    if admission.snapshot is not None:
        check_snapshot(item.demand, source, admission.snapshot)
    _refuse(admission)
    return admission


def _refuse(admission: "Admission") -> None:
    """Raises what kept an adapter out: its error, or the worst that the rules found."""
    if admission.error is not None:
        raise admission.error
    if not admission.accepted and admission.verdict is not None:
        worst = max(admission.verdict.findings, key=lambda finding: finding.severity)
        raise Refused(f"{worst.code} {worst.name}: {worst.problem.message}", hint=worst.problem.hint)


def _plan(base: "BaseModel", jobs: "Iterable[Job]", limits: Limits, device: "Device", seed: int) -> "Plan":
    """Slots for every module that one of the adapters is on; the base's own weights are not needed."""
    from lora_cli.runtime.composable import largest_rank
    from lora_cli.runtime.plan import Plan

    adapters = [job.adapter for job in jobs]
    used = {module for adapter in adapters for module in adapter.pairs}
    return Plan(
        base=base,
        modules=tuple(module for module in base.modules if module in used),
        max_loras=limits.max_loras,
        max_cpu_loras=limits.max_cpu_loras,
        max_lora_rank=limits.max_lora_rank or max(largest_rank(adapter) for adapter in adapters),
        device=device,
        seed=seed,
    )


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
