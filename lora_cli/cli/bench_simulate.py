"""``serve-bench --simulate``: several policies over the same requests; with ``--plan``, the tiers that a goal needs."""

import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING

from lora_cli.bench.capacity_planning import DEFINITIONS as PLAN_DEFINITIONS
from lora_cli.bench.capacity_planning import plan_capacity, plan_metric_names, plan_metrics
from lora_cli.bench.link_model import BYTES_PER_RANK, DISK_LINK, GPU_LINK, Links, parse_link, read_links
from lora_cli.bench.measured_run import run_environment
from lora_cli.bench.policy_comparison import DEFINITIONS, simulate_all
from lora_cli.bench.report import BenchSetting, VllmRun, bench_report, describe_run
from lora_cli.bench.simulator import OPT, Fleet, adapter_sizes, parse_policies, parse_ranks
from lora_cli.bench.thresholds import (
    Condition,
    has_stall_goal,
    parse_goals,
    simulation_metric_names,
    simulation_metrics,
)
from lora_cli.bench.trace import Trace
from lora_cli.cli.adapter_selection import MAX_CPU_LORAS, MAX_LORAS, Lineup, check_max_cpu_loras, lineup, reaching
from lora_cli.cli.bench_options import RANKS, BenchOptions, adapter_names, save_trace, workload_of
from lora_cli.cli.bench_results import concluding
from lora_cli.cli.options import size_of
from lora_cli.cli.output import to_stderr
from lora_cli.core.base_model import HALF_BYTES
from lora_cli.errors import INTERRUPTED, UsageError
from lora_cli.settings import Settings
from lora_cli.tiers.budget import Budget
from lora_cli.validation import read_all

if TYPE_CHECKING:
    from lora_cli.documents.manifest import EngineSpec

REQUESTS, ADAPTERS = 20_000, 500
POLICIES = "lru,lfu,gdsf,adaptive,opt"
PLAN_POLICIES = "lru,adaptive"
NO_QUEUE = "without --request-rate, or times in --trace, requests do not queue: a stall is only the request's own load"


def simulation(settings: Settings, options: BenchOptions) -> int:
    """Simulate the workload, or find the sizes that meet the goals of ``--plan``, and report it; the exit code.

    It is 1 when a policy meets the goals with no number of slots.

    Raises:
        LoraCliError: what is asked for is wrong or too large, or a file cannot be read or written.
    """
    options.refuse(("device", "max_lora_rank"), "not for --simulate", "there is no device")
    goals = _goals(options)
    policies = parse_policies(options.eviction or (PLAN_POLICIES if goals else POLICIES))
    if goals and OPT in policies:
        raise UsageError(
            "--plan needs a real policy, and opt needs future requests", hint=f"--eviction {PLAN_POLICIES}"
        )
    conclude = concluding(options, plan_metric_names(policies) if goals else simulation_metric_names(policies))
    trace, fleet, run = _scene(settings, options)
    if has_stall_goal(goals) and not trace.timed and not settings.quiet:
        to_stderr(f"warning: {NO_QUEUE}")
    save_trace(trace, options.save_trace)
    objective, missed = options.objective or "stall", False
    done: Collection[str]
    if goals:
        sized = plan_capacity(trace, fleet, policies, goals, objective)
        done, missed = sized.plan.policies, not all(one.answers for one in sized.plan.policies.values())
        report = bench_report(*run, sized, PLAN_DEFINITIONS, plan_metrics(sized.plan.policies))
    else:
        found = simulate_all(trace, fleet, policies, objective, on_done=_teller(trace, policies))
        done = found.policies
        report = bench_report(*run, found, DEFINITIONS, simulation_metrics(found.policies))
    code = conclude(report, {options.seed: trace}) if done else 0
    if len(done) < len(policies):
        names = [", ".join(policy for policy in policies if (policy in done) is it) for it in (True, False)]
        to_stderr(f"interrupted: {names[0] or 'no policy'} finished, {names[1]} not")
        return INTERRUPTED
    return code or int(missed)


def _goals(options: BenchOptions) -> tuple[Condition, ...]:
    """The goals of ``--plan``; none without it.

    Raises:
        UsageError: one is wrong, or what --plan finds out is given.
    """
    if not options.plan:
        return ()
    for flag in options.given(("max_loras", "max_cpu_loras", "max_gpu_bytes", "max_cpu_bytes")):
        raise UsageError(f"{flag} and --plan cannot be used together", hint="--plan computes it")
    return parse_goals(options.plan)


def _scene(settings: Settings, options: BenchOptions) -> tuple[Trace, Fleet, tuple[VllmRun, BenchSetting]]:
    """The requests, the adapters and tiers that they are put to, and what the report says of them.

    Raises:
        LoraCliError: what is asked for is wrong, or a file cannot be read.
    """
    workload = workload_of(options)
    if options.refs or options.manifest is not None:
        asked, sizes = _named(settings, options)
        if workload.names and set(workload.names) != sizes.keys():
            raise UsageError("the adapters of the workload differ from those given", hint="remove one of them")
        words, engine = workload.words(), asked.engine
    else:
        names = adapter_names(workload.names, options.num_adapters, ADAPTERS)
        per_rank = size_of(options.bytes_per_rank, "--bytes-per-rank") or BYTES_PER_RANK
        sizes = adapter_sizes(names, parse_ranks(options.ranks or RANKS), options.seed, per_rank)
        words, engine = workload.words() | {"ranks": options.ranks or RANKS}, None
    trace = workload.over(list(sizes), REQUESTS, options.seed)
    fleet = _fleet(sizes, engine, options)
    traffic = workload.traffic
    # Else the times of the requests tell their rate.
    rate = traffic.request_rate if options.trace is None and traffic.ramp is None else None
    return (
        trace,
        fleet,
        describe_run("simulate", trace, options.seed, words, run_environment(), rate, traffic.burstiness),
    )


def _named(settings: Settings, options: BenchOptions) -> tuple[Lineup, dict[str, int]]:
    """The adapters that are named, and the bytes of each in half precision, from its header alone.

    Raises:
        LoraCliError: one cannot be read or is no LoRA, or an option is for synthetic adapters.
    """
    for flag in options.given(("num_adapters", "ranks", "bytes_per_rank")):
        raise UsageError(f"{flag} is for synthetic adapters", hint="remove it: named adapters have their own sizes")
    asked = lineup(options.manifest, options.refs or [], "", "simulate")
    reached = reaching(settings, asked.manifest, options.policy)
    sizes = {}
    for item, one in zip(asked.items, read_all(asked.to_judge(reached), reached), strict=True):
        if one.error is not None:
            raise one.error
        pairs = one.adapter.pairs.values() if one.adapter is not None else ()
        sizes[item.name] = HALF_BYTES * sum(prod(factor.shape) for pair in pairs for factor in pair.factors)
        if not sizes[item.name]:
            raise UsageError(f"{item.name} has no LoRA factors", hint="use other adapters")
    return asked, sizes


def _fleet(sizes: Mapping[str, int], engine: "EngineSpec | None", options: BenchOptions) -> Fleet:
    """The adapters' bytes, the two tiers and the ways into them."""
    gpu, cpu = _budgets(len(sizes), engine, options)
    largest = max(sizes.values())
    for flag, budget in (("--max-gpu-bytes", gpu), ("--max-cpu-bytes", cpu)):
        if budget.max_bytes is not None and budget.max_bytes < largest:
            raise UsageError(f"{flag} is {budget.max_bytes}, but the largest adapter has {largest} bytes")
    return Fleet(sizes, gpu, cpu, _links(options))


def _budgets(count: int, engine: "EngineSpec | None", options: BenchOptions) -> tuple[Budget, Budget]:
    """What slots and memory hold, as options or the manifest's ``engine`` say; or bytes where only these are given."""
    gpu_bytes = size_of(options.max_gpu_bytes, "--max-gpu-bytes")
    cpu_bytes = size_of(options.max_cpu_bytes, "--max-cpu-bytes")
    loras = options.max_loras or (engine and engine.max_loras)
    slots = loras or (min(MAX_LORAS, count) if gpu_bytes is None else count)
    cpu_loras = options.max_cpu_loras or (engine and engine.max_cpu_loras)
    places = cpu_loras or (max(slots, min(MAX_CPU_LORAS, count)) if cpu_bytes is None else count)
    check_max_cpu_loras(places, slots if gpu_bytes is None else None)
    return Budget(slots, gpu_bytes), Budget(places, cpu_bytes)


def _links(options: BenchOptions) -> Links:
    """What loads cost: measured, given or the defaults."""
    if options.measured is not None:
        if options.disk_link or options.gpu_link:
            raise UsageError("--measured and --disk-link or --gpu-link cannot be used together")
        return read_links(options.measured, "--measured")
    return Links(
        parse_link(options.disk_link, "--disk-link") if options.disk_link else DISK_LINK,
        parse_link(options.gpu_link, "--gpu-link") if options.gpu_link else GPU_LINK,
    )


def _teller(trace: Trace, policies: Sequence[str]) -> Callable[[str], None]:
    """Says on a terminal which policy is done, where that takes long; elsewhere nothing."""
    if len(trace) * len(policies) < 500_000 or not sys.stderr.isatty():
        return lambda _policy: None
    return lambda policy: to_stderr(f"{policy}: done")
