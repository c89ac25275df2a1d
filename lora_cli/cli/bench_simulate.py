"""``serve-bench --simulate``: compares the hits of eviction policies over the same requests."""

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from lora_cli.bench.policy_comparison import DEFINITIONS, simulate_all
from lora_cli.bench.report import BenchSetting, VllmRun, bench_report, describe_run, run_environment
from lora_cli.bench.simulator import Fleet, parse_policies
from lora_cli.bench.thresholds import simulation_metric_names, simulation_metrics
from lora_cli.bench.trace import Trace
from lora_cli.cli.adapter_selection import MAX_CPU_LORAS, MAX_LORAS, check_max_cpu_loras, read_inputs
from lora_cli.cli.bench_options import BenchOptions, adapter_names, parse_workload, save_trace
from lora_cli.cli.bench_results import report_writer
from lora_cli.cli.output import to_stderr
from lora_cli.errors import INTERRUPTED, UsageError
from lora_cli.tiers.memory_accounting import Budget

if TYPE_CHECKING:
    from lora_cli.documents.manifest import EngineSpec

REQUESTS, ADAPTERS = 20_000, 500
POLICIES = "lru,lfu,opt"


def simulate(options: BenchOptions) -> int:
    """Simulates the workload, reports it, and returns the exit code.

    Raises:
        LoraCliError: an option is invalid or too large, or a file cannot be read or written.
    """
    options.refuse(("device", "max_lora_rank"), "not for --simulate", "there is no device")
    policies = parse_policies(options.eviction or POLICIES)
    conclude = report_writer(options, simulation_metric_names(policies))
    trace, fleet, run = _simulated_run(options)
    save_trace(trace, options.save_trace)
    found = simulate_all(trace, fleet, policies, on_done=_policy_progress(trace, policies))
    done = found.policies
    report = bench_report(*run, found, DEFINITIONS, simulation_metrics(done))
    code = conclude(report) if done else 0
    if len(done) < len(policies):
        names = [", ".join(policy for policy in policies if (policy in done) is it) for it in (True, False)]
        to_stderr(f"interrupted: {names[0] or 'no policy'} finished, {names[1]} not")
        return INTERRUPTED
    return code


def _simulated_run(options: BenchOptions) -> tuple[Trace, Fleet, tuple[VllmRun, BenchSetting]]:
    """The requests, the simulated tiers, and their description in the report.

    Raises:
        LoraCliError: an option is invalid, or a file cannot be read.
    """
    workload, engine = parse_workload(options), None
    if options.refs or options.manifest is not None:
        for flag in options.given(("num_adapters",)):
            raise UsageError(f"{flag} is for synthetic adapters", hint="remove it")
        inputs = read_inputs(options.manifest, options.refs or [], "", "simulate")
        names: Sequence[str] = [item.name for item in inputs.items]
        if workload.names and set(workload.names) != set(names):
            raise UsageError("the adapters of the workload differ from those given", hint="remove one of them")
        engine = inputs.engine
    else:
        names = adapter_names(workload.names, options.num_adapters, ADAPTERS)
    trace = workload.trace_for(names, REQUESTS)
    rate, burstiness = workload.request_rate, workload.traffic.burstiness
    run = describe_run("simulate", trace, options.seed, workload.summary(), run_environment(), rate, burstiness)
    return trace, _fleet(len(names), engine, options), run


def _fleet(count: int, engine: "EngineSpec | None", options: BenchOptions) -> Fleet:
    """What slots and memory hold, from the options or the manifest's engine."""
    slots = options.max_loras or (engine and engine.max_loras) or min(MAX_LORAS, count)
    places = options.max_cpu_loras or (engine and engine.max_cpu_loras) or max(slots, min(MAX_CPU_LORAS, count))
    check_max_cpu_loras(places, slots)
    return Fleet(Budget(slots), Budget(places))


def _policy_progress(trace: Trace, policies: Sequence[str]) -> Callable[[str], None]:
    """Reports each finished policy of a long simulation on a terminal; does nothing elsewhere."""
    if len(trace) * len(policies) < 500_000 or not sys.stderr.isatty():
        return lambda _policy: None
    return lambda policy: to_stderr(f"{policy}: done")
