"""``serve-bench --forward modules``: requests one after the other over the slots of a warm process of its own."""

import sys
from collections.abc import Callable, Mapping
from typing import cast, get_args

from lora_cli.bench.measured import MEASURED, measured_report
from lora_cli.bench.report import MeasurementReport, run_of
from lora_cli.bench.run import Served, environment, run_trace
from lora_cli.bench.trace import Trace
from lora_cli.cli.bench_adapters import Failures, measured_lineup, servable
from lora_cli.cli.bench_options import BenchOptions, save_trace, workload_of
from lora_cli.cli.bench_results import concluding
from lora_cli.cli.lineup import Lineup, base_model, limits
from lora_cli.cli.main import INTERRUPTED
from lora_cli.cli.output import to_stderr
from lora_cli.cli.warming import Run, planning, require_packages
from lora_cli.core.nearest import did_you_mean
from lora_cli.core.text import safe
from lora_cli.errors import LoraCliError, Refused, UsageError
from lora_cli.runtime.plan import Device, Job
from lora_cli.runtime.process import WarmProcess
from lora_cli.settings import Settings
from lora_cli.store import Store
from lora_cli.store.holds import holding
from lora_cli.tiers.eviction.registry import PolicyName

REQUESTS = 200
"""How many there are when nobody says."""


def measurement(settings: Settings, options: BenchOptions) -> int:
    """Measure what is asked for in a warm process, and report it; the exit code.

    Raises:
        LoraCliError: what is asked for is wrong, or there is no base or no torch.
    """
    require_packages("serve-bench", "warm", "torch")
    rates = {"--request-rate": options.request_rate != "inf", "--ramp-up-strategy": options.ramp_up_strategy}
    for flag in (flag for flag, given in rates.items() if given):
        raise UsageError(
            f"{flag} is not for --forward modules", hint="there the warm process is asked one request at a time"
        )
    conclude, workload = concluding(options, MEASURED), workload_of(options)
    failures: Failures = {}
    with measured_lineup(settings, options, workload) as (asked, own):
        trace = workload.over([item.name for item in asked.items], REQUESTS, options.seed)
        device, eviction = chosen_device(options), chosen_eviction(options)
        most = limits(asked, options.max_loras, options.max_cpu_loras, options.max_lora_rank)
        save_trace(trace, options.save_trace)
        facts = {"base": str(asked.base), **workload.words(), "eviction": eviction}
        run = Run(most, device, "modules", eviction)
        result, where = _measure(asked, run, trace, options.seed, facts, own, failures)
        report = measured_report(*run_of("in-process", trace, options.seed, workload.words(), where), result)
        code = max([conclude(report, {options.seed: trace}), *(one.exit_code for one in failures.values())])
    if result.requests < len(trace):
        to_stderr(f"interrupted after {result.requests} of {len(trace)} requests")
        return INTERRUPTED
    return code


def chosen_device(options: BenchOptions) -> Device:
    """What ``--device`` says. Raises ``UsageError``."""
    word = options.device or "auto"
    if word not in get_args(Device):
        raise UsageError(f"--device is auto, cpu or cuda, not {safe(word)}")
    return cast(Device, word)


def chosen_eviction(options: BenchOptions) -> PolicyName:
    """What ``--eviction`` says of one process. Raises ``UsageError``."""
    word, known = options.eviction or "adaptive", get_args(PolicyName)
    if word not in known:
        raise UsageError(
            f"--eviction {safe(word)}: a warm process has one of {', '.join(known)}",
            hint="--simulate compares several, and opt" if "," in word or word == "opt" else did_you_mean(word, known),
        )
    return cast(PolicyName, word)


def _measure(
    asked: Lineup, run: Run, trace: Trace, seed: int, facts: Mapping[str, str], settings: Settings, failures: Failures
) -> tuple[MeasurementReport, Mapping[str, str]]:
    """Admit the adapters, start the warm process, and send the trace through it; what is used is held meanwhile.

    Gives what was measured, and where.
    """
    base, keys = base_model(asked.base, settings), trace.keys()
    tiers = (run.limits.max_loras, run.limits.max_cpu_loras)
    with holding(Store(settings.cache_dir)) as hold:
        jobs = {job.name: job for job in servable(asked, base, run.limits, settings, hold, failures)}
        broken = {name: one.message for name, one in failures.items()}
        if not jobs:
            nothing = run_trace(keys, _nothing, *tiers, failed=broken)
            return nothing, environment(**facts)
        adapters = [job.adapter for job in jobs.values()]
        plan = planning(asked, run, settings)(base, adapters, run.limits, seed=seed, base_directory=None)
        with WarmProcess(plan) as process:
            ready = process.start()
            found = run_trace(
                keys,
                _server(process, jobs, failures),
                *tiers,
                failed=broken,
                progress=counter(len(keys), settings),
            )
            return found, environment(**facts, device=ready.device, dtype=ready.dtype)


def _server(process: WarmProcess, jobs: Mapping[str, Job], failures: Failures) -> Callable[[str], Served]:
    """What a trace is run against: the adapter into its slot, and a small batch through it."""

    def serve(name: str) -> Served:
        job = jobs[name]
        try:
            served = process.serve(job)
        except LoraCliError as error:
            # The tiers know an adapter by its digest; people know it by its name.
            error.message = error.message.replace(job.key, name)
            failures[name] = error
            raise
        evicted = {str(tier): count for tier, count in served.evicted.items()}
        return Served(served.tier, served.load_ms + served.forward_ms, evicted)

    return serve


def _nothing(name: str) -> Served:
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
