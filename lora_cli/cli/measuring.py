"""``serve-bench --forward modules``: requests one after the other over the slots of a warm process of its own."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING

from lora_cli.bench.measured import MEASURED, measured_report
from lora_cli.bench.report import run_of
from lora_cli.cli.bench_options import FleetFlags, LineupFlags, ResultFlags, TierFlags, WorkloadFlags
from lora_cli.cli.bench_results import Wanted, conclude, wanted_of
from lora_cli.cli.bench_workload import Workload, save_trace, workload_of
from lora_cli.cli.lineup import Lineup, base_model, limits
from lora_cli.cli.main import INTERRUPTED
from lora_cli.cli.output import to_stderr
from lora_cli.cli.servable import Failures, measured_lineup, servable
from lora_cli.core.nearest import did_you_mean
from lora_cli.core.text import safe
from lora_cli.errors import LoraCliError, MissingExtra, Refused, UsageError
from lora_cli.settings import Settings

if TYPE_CHECKING:
    from lora_cli.bench.report import MeasurementReport
    from lora_cli.bench.run import Served
    from lora_cli.bench.trace import Trace
    from lora_cli.runtime.plan import Device, Job, Limits
    from lora_cli.runtime.process import WarmProcess
    from lora_cli.tiers.eviction.registry import PolicyName

REQUESTS = 200
"""How many there are when nobody says."""


@dataclass(frozen=True, slots=True)
class Run:
    """What is measured: the adapters, the tiers, and the workload in words."""

    asked: Lineup
    most: "Limits"
    device: "Device"
    eviction: "PolicyName"
    seed: int
    words: Mapping[str, str]


def measurement(
    settings: Settings,
    named: LineupFlags,
    flags: WorkloadFlags,
    tiers: TierFlags,
    fleet: FleetFlags,
    wanted: ResultFlags,
) -> int:
    """Measure what is asked for in a warm process, and tell it; the exit code.

    Raises:
        LoraCliError: what is asked for is wrong, or there is no base or no torch.
    """
    if find_spec("torch") is None:
        raise MissingExtra("serve-bench", "warm", "torch")
    for flag, said in (("--request-rate", flags.request_rate != "inf"), ("--ramp-up-strategy", flags.ramp_up_strategy)):
        if said:
            raise UsageError(
                f"{flag} is not for --forward modules", hint="there the warm process is asked one request at a time"
            )
    checked, workload = wanted_of(wanted, MEASURED, quiet=settings.quiet), workload_of(flags)
    with measured_lineup(settings, named, workload, fleet) as (asked, own):
        return _told(asked, workload, tiers, checked, own)


def _told(asked: Lineup, workload: Workload, tiers: TierFlags, wanted: Wanted, settings: Settings) -> int:
    """Measure the lineup and tell it; the exit code."""
    trace, seed = workload.over([item.name for item in asked.items], REQUESTS), workload.flags.seed
    device, eviction = chosen_device(tiers.device or "auto"), chosen_eviction(tiers.eviction or "adaptive")
    most = limits(asked, tiers.max_loras, tiers.max_cpu_loras, tiers.max_lora_rank)
    if wanted.flags.save_trace is not None:
        save_trace(trace, wanted.flags.save_trace)
    failures = Failures()
    result, facts = _measure(Run(asked, most, device, eviction, seed, workload.words()), trace, settings, failures)
    run, setting = run_of("in-process", trace, seed, workload.words(), facts)
    code = max(failures.code, conclude(measured_report(run, setting, result), {seed: trace}, wanted))
    if result.requests < len(trace):
        to_stderr(f"interrupted after {result.requests} of {len(trace)} requests")
        return INTERRUPTED
    return code


def chosen_device(word: str) -> "Device":
    """What ``--device`` says. Raises ``UsageError``."""
    for known in ("auto", "cpu", "cuda"):
        if word == known:
            return known
    raise UsageError(f"--device is auto, cpu or cuda, not {safe(word)}")


def chosen_eviction(word: str) -> "PolicyName":
    """What ``--eviction`` says of one process. Raises ``UsageError``."""
    from lora_cli.tiers.eviction.registry import POLICIES

    for known in POLICIES:
        if word == known:
            return known
    raise UsageError(
        f"--eviction {safe(word)}: a warm process has one of {', '.join(POLICIES)}",
        hint="--simulate compares several, and opt" if "," in word or word == "opt" else did_you_mean(word, POLICIES),
    )


def _measure(
    run: Run, trace: "Trace", settings: Settings, failures: Failures
) -> "tuple[MeasurementReport, Mapping[str, str]]":
    """Admit the adapters, start the warm process, and send the trace through it; what is used is held meanwhile.

    Gives what was measured, and where.
    """
    from lora_cli.bench.run import environment, run_trace
    from lora_cli.runtime.plan import lay_out
    from lora_cli.runtime.process import WarmProcess
    from lora_cli.store import Store
    from lora_cli.store.holds import holding

    asked, most, keys = run.asked, run.most, trace.keys()
    base = base_model(asked.base, settings)
    facts = {"base": str(asked.base), **run.words, "eviction": run.eviction}
    with holding(Store(settings.cache_dir)) as hold:
        jobs = {job.name: job for job in servable(asked, base, most, settings, hold, failures)}
        if not jobs:
            nothing = run_trace(keys, _nothing, most.max_loras, most.max_cpu_loras, failed=failures.reasons)
            return nothing, environment(**facts)
        plan = lay_out(
            base,
            [job.adapter for job in jobs.values()],
            most,
            device=run.device,
            seed=run.seed,
            cache_dir=settings.cache_dir,
            eviction=run.eviction,
        )
        with WarmProcess(plan) as process:
            ready = process.start()
            found = run_trace(
                keys,
                _server(process, jobs, failures),
                most.max_loras,
                most.max_cpu_loras,
                failed=failures.reasons,
                progress=counter(len(keys), settings),
            )
            return found, environment(**facts, device=ready.device, dtype=ready.dtype)


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
            failures.add(name, error.message, error.hint, error.exit_code)
            raise
        evicted = {str(tier): count for tier, count in served.evicted.items()}
        return Served(served.tier, served.load_ms + served.forward_ms, evicted)

    return serve


def _nothing(name: str) -> "Served":
    raise Refused(f"{name} cannot be served")


def counter(total: int, settings: Settings) -> Callable[[int], None]:
    """Says on a terminal how many requests are done; elsewhere nothing."""
    if settings.quiet or settings.no_progress or not sys.stderr.isatty():
        return lambda _done: None
    step = max(1, total // 100)

    def tell(done: int) -> None:
        if done % step == 0 or done == total:
            sys.stderr.write(f"\r{done} of {total} requests" + ("\n" if done == total else ""))
            sys.stderr.flush()

    return tell
