"""``serve-bench --simulate``: compares eviction policies; with ``--plan``, finds the tier sizes that a goal needs.

With ``--sweep``, each policy is simulated with each of the given sizes.
"""

import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING

from lora_cli.bench.capacity_planning import DEFINITIONS as PLAN_DEFINITIONS
from lora_cli.bench.capacity_planning import (
    SWEEP_DEFINITIONS,
    plan_capacity,
    plan_metric_names,
    plan_metrics,
    sweep_metric_names,
    sweep_metrics,
    sweep_sizes,
)
from lora_cli.bench.engine_steps import DEFINITIONS as STEP_DEFINITIONS
from lora_cli.bench.engine_steps import METRICS as STEP_METRICS
from lora_cli.bench.engine_steps import StepModel, parse_step, step_metrics
from lora_cli.bench.link_model import BYTES_PER_RANK, DISK_LINK, GPU_LINK, OWN_SOURCE, Links, parse_link
from lora_cli.bench.links import parse_links, read_links
from lora_cli.bench.live_comparison import DEFINITIONS as LIVE_DEFINITIONS
from lora_cli.bench.live_comparison import ERRORS, live_error_metrics, live_errors, read_live_run
from lora_cli.bench.measured_run import run_environment
from lora_cli.bench.policy_comparison import DEFINITIONS, simulate_all
from lora_cli.bench.report import (
    BenchReport,
    BenchSetting,
    LiveComparison,
    PlanReport,
    SimulationReport,
    VllmRun,
    bench_report,
    describe_run,
)
from lora_cli.bench.simulator import OPT, Fleet, adapter_sizes, parse_policies, parse_ranks
from lora_cli.bench.thresholds import (
    Condition,
    has_stall_goal,
    parse_goals,
    simulation_metric_names,
    simulation_metrics,
)
from lora_cli.bench.trace import Trace
from lora_cli.cli.adapter_selection import (
    MAX_CPU_LORAS,
    MAX_LORAS,
    Inputs,
    apply_policies,
    check_max_cpu_loras,
    read_inputs,
)
from lora_cli.cli.bench_options import RANKS, BenchOptions, adapter_names, parse_workload, save_trace
from lora_cli.cli.bench_results import report_writer
from lora_cli.cli.cluster import task_mapper
from lora_cli.cli.options import parse_size_option
from lora_cli.cli.output import inform, to_stderr
from lora_cli.core.base_model import HALF_BYTES
from lora_cli.errors import INTERRUPTED, UsageError
from lora_cli.settings import Settings
from lora_cli.tiers.memory_accounting import Budget
from lora_cli.validation import read_all

if TYPE_CHECKING:
    from lora_cli.documents.manifest import EngineSpec

REQUESTS, ADAPTERS = 20_000, 500
POLICIES = "lru,lfu,opt"
STEP_POLICIES = "lru,lfu"
PLAN_POLICIES = "lru,lfu"
SWEPT = ("max-loras", "max-cpu-loras")
MOST_SWEPT = 100
NO_QUEUE = "without --request-rate, or times in --trace, requests do not queue: a stall is only the request's own load"


def simulate(settings: Settings, options: BenchOptions) -> int:
    """Simulates the workload, or finds the sizes for ``--plan``, reports it, and returns the exit code.

    It is 1 if a policy cannot meet the goals with any number of slots.

    Raises:
        LoraCliError: an option is invalid or too large, or a file cannot be read or written.
    """
    options.refuse(("device", "max_lora_rank"), "not for --simulate", "there is no device")
    goals, swept, model = _goals(options), _parse_sweep(options), _step_model(options)
    policies = _policies(options, model, planned=bool(goals))
    known = plan_metric_names(policies) if goals else _metric_names(options, policies)
    conclude = report_writer(options, known) if not swept else None
    trace, fleet, run = _simulated_run(settings, options)
    sizes = _sizes(swept, fleet, given=options.max_cpu_loras is not None)
    conclude = conclude or report_writer(options, sweep_metric_names(policies, sizes))
    live = read_live_run(options.live_result, trace) if options.live_result is not None else None
    if live is not None and live.at_start is not None:
        fleet = replace(fleet, start=live.at_start)
    if has_stall_goal(goals) and not trace.timed:
        inform(f"warning: {NO_QUEUE}", settings)
    save_trace(trace, options.save_trace)
    done: Collection[str]
    with task_mapper(options.ray, "serve-bench") as mapper:
        if goals or swept:
            found = (
                plan_capacity(trace, fleet, policies, goals, mapper)
                if goals
                else sweep_sizes(trace, fleet, policies, sizes, mapper)
            )
            done, report = found.plan.policies, _sized_report(run, found)
        else:
            show = _policy_progress(trace, policies)
            one = simulate_all(trace, fleet, policies, model=model, on_done=show, mapper=mapper)
            done, report = one.policies, _report(run, one, live)
    code = conclude(report, {options.seed: trace}) if done else 0
    if len(done) < len(policies):
        names = [", ".join(policy for policy in policies if (policy in done) is it) for it in (True, False)]
        to_stderr(f"interrupted: {names[0] or 'no policy'} finished, {names[1]} not")
        return INTERRUPTED
    return code or int(_misses_goals(report))


def _policies(options: BenchOptions, model: StepModel | None, *, planned: bool) -> tuple[str, ...]:
    """The policies of ``--eviction``.

    Raises:
        UsageError: one is unknown, or not for ``--plan`` or ``--step``.
    """
    usual = PLAN_POLICIES if planned else POLICIES if model is None else STEP_POLICIES
    policies = parse_policies(options.eviction or usual)
    if planned and OPT in policies:
        raise UsageError("--plan cannot use opt: it needs to know future requests", hint=f"--eviction {PLAN_POLICIES}")
    if model is not None and OPT in policies:
        raise UsageError("--step cannot use opt: a batch changes the order of requests", hint=f"--eviction {usual}")
    return policies


def _misses_goals(report: BenchReport) -> bool:
    found = report.result
    return isinstance(found, PlanReport) and not all(one.answers for one in found.plan.policies.values())


def _sized_report(run: tuple[VllmRun, BenchSetting], found: PlanReport) -> BenchReport:
    """The report of ``--plan`` or ``--sweep``."""
    plans = found.plan.policies
    if found.plan.goals:
        return bench_report(*run, found, PLAN_DEFINITIONS, plan_metrics(plans))
    return bench_report(*run, found, SWEEP_DEFINITIONS, sweep_metrics(plans))


def _parse_sweep(options: BenchOptions) -> dict[str, tuple[int, ...]]:
    """The numbers of each ``--sweep``, by the name of the option that they replace; empty without it.

    Raises:
        UsageError: one is invalid, or an option cannot be used with it.
    """
    found: dict[str, tuple[int, ...]] = {}
    for text in options.sweep or []:
        name, _, numbers = text.partition("=")
        words, hint = numbers.split(","), f"--sweep {name if name in SWEPT else SWEPT[0]}=8,16,32"
        if name not in SWEPT or not all(one.isascii() and one.isdecimal() and len(one) < 7 for one in words):
            raise UsageError(f"--sweep {text[:60]}: must be {' or '.join(SWEPT)}, and numbers", hint=hint)
        if name in found:
            raise UsageError(f"--sweep {name} is given twice", hint=hint)
        for flag in options.given((name.replace("-", "_"),)):
            raise UsageError(f"{flag} and --sweep {name} cannot be used together", hint="add the number to --sweep")
        found[name] = tuple(dict.fromkeys(map(int, words)))
        if len(found[name]) > MOST_SWEPT or 0 in found[name]:
            raise UsageError(f"--sweep {name} must have 1 to {MOST_SWEPT} numbers above 0", hint=hint)
    if found:
        options.refuse(("plan",), "not for --sweep", "it finds the sizes itself")
        options.refuse(("live_result", "step", "max_gpu_bytes", "max_cpu_bytes"), "not for --sweep")
    return found


def _sizes(swept: Mapping[str, tuple[int, ...]], fleet: Fleet, *, given: bool) -> list[tuple[int, int]]:
    """The slots and places of each simulation of ``--sweep``; without a value those of the fleet.

    More slots need more places, unless ``--max-cpu-loras`` is ``given``.

    Raises:
        UsageError: there are fewer places in memory than slots.
    """
    sizes = []
    for slots in swept.get("max-loras", (fleet.gpu.items,)):
        for places in swept.get("max-cpu-loras", (fleet.cpu.items if given else max(fleet.cpu.items, slots),)):
            check_max_cpu_loras(places, slots)
            sizes.append((slots, places))
    return sizes


def _step_model(options: BenchOptions) -> StepModel | None:
    """The model of ``--step``, if it is given.

    Raises:
        UsageError: it is invalid, or an option is for it or not for it.
    """
    if options.step is None:
        options.refuse(("max_num_seqs", "max_num_batched_tokens"), "for --step", "add --step 12,50")
        return None
    options.refuse(("max_gpu_bytes",), "not for --step", "a batch has as many adapters as --max-loras")
    return parse_step(options.step, options.max_num_seqs, options.max_num_batched_tokens)


def _metric_names(options: BenchOptions, policies: Sequence[str]) -> set[str]:
    names = simulation_metric_names(policies)
    names |= simulation_metric_names([one for one in policies if one != OPT], ERRORS) if options.live_result else set()
    return names | (simulation_metric_names(policies, STEP_METRICS) if options.step else set())


def _report(run: tuple[VllmRun, BenchSetting], found: SimulationReport, live: LiveComparison | None) -> BenchReport:
    """The report of the simulated policies, with their distances from the live run."""
    metrics, definitions = simulation_metrics(found.policies), dict(DEFINITIONS)
    if steps := step_metrics(found.policies):
        metrics |= steps
        definitions |= STEP_DEFINITIONS
    if live is not None:
        live = replace(live, policies=live_errors(live, found.policies))
        metrics |= live_error_metrics(live.policies)
        definitions |= LIVE_DEFINITIONS
    return bench_report(*run, replace(found, live=live), definitions, metrics)


def _goals(options: BenchOptions) -> tuple[Condition, ...]:
    """The goals of ``--plan``; empty without it.

    Raises:
        UsageError: one is invalid, or a size that --plan computes is given.
    """
    if not options.plan:
        return ()
    for flag in options.given(("max_loras", "max_cpu_loras", "max_gpu_bytes", "max_cpu_bytes")):
        raise UsageError(f"{flag} and --plan cannot be used together", hint="--plan computes it")
    options.refuse(("live_result", "step"), "not for --plan", "it is for one size of the tiers")
    return parse_goals(options.plan)


def _simulated_run(settings: Settings, options: BenchOptions) -> tuple[Trace, Fleet, tuple[VllmRun, BenchSetting]]:
    """The requests, the simulated adapters and tiers, and their description in the report.

    Raises:
        LoraCliError: an option is invalid, or a file cannot be read.
    """
    workload = parse_workload(options)
    if options.refs or options.manifest is not None:
        inputs, sizes = _named_adapters(settings, options)
        if workload.names and set(workload.names) != sizes.keys():
            raise UsageError("the adapters of the workload differ from those given", hint="remove one of them")
        words, engine = workload.summary(), inputs.engine
    else:
        names = adapter_names(workload.names, options.num_adapters, ADAPTERS)
        per_rank = parse_size_option(options.bytes_per_rank, "--bytes-per-rank") or BYTES_PER_RANK
        sizes = adapter_sizes(names, parse_ranks(options.ranks or RANKS), options.seed, per_rank)
        words, engine = workload.summary() | {"ranks": options.ranks or RANKS}, None
    trace = workload.trace_for(list(sizes), REQUESTS, options.seed)
    fleet = _fleet(sizes, engine, options)
    if options.step is not None:
        words |= {"step": options.step}
    rate, burstiness = workload.request_rate, workload.traffic.burstiness
    return trace, fleet, describe_run("simulate", trace, options.seed, words, run_environment(), rate, burstiness)


def _named_adapters(settings: Settings, options: BenchOptions) -> tuple[Inputs, dict[str, int]]:
    """The named adapters, and the bytes of each in half precision, read from the headers.

    Raises:
        LoraCliError: one cannot be read or is not LoRA, or an option is for synthetic adapters.
    """
    for flag in options.given(("num_adapters", "ranks", "bytes_per_rank")):
        raise UsageError(f"{flag} is for synthetic adapters", hint="remove it: named adapters have their own sizes")
    inputs = read_inputs(options.manifest, options.refs or [], "", "simulate")
    reached = apply_policies(settings, inputs.manifest, options.policy)
    sizes = {}
    for item, one in zip(inputs.items, read_all(inputs.to_validate(reached), reached), strict=True):
        if one.error is not None:
            raise one.error
        pairs = one.adapter.pairs.values() if one.adapter is not None else ()
        sizes[item.name] = HALF_BYTES * sum(prod(factor.shape) for pair in pairs for factor in pair.factors)
        if not sizes[item.name]:
            raise UsageError(f"{item.name} has no LoRA factors", hint="use other adapters")
    return inputs, sizes


def _fleet(sizes: Mapping[str, int], engine: "EngineSpec | None", options: BenchOptions) -> Fleet:
    """The sizes of the adapters and of both tiers, and the load times."""
    gpu, cpu = _budgets(len(sizes), engine, options)
    largest = max(sizes.values())
    for flag, budget in (("--max-gpu-bytes", gpu), ("--max-cpu-bytes", cpu)):
        if budget.max_bytes is not None and budget.max_bytes < largest:
            raise UsageError(f"{flag} is {budget.max_bytes}, but the largest adapter has {largest} bytes")
    return Fleet(sizes, gpu, cpu, _links(options))


def _budgets(count: int, engine: "EngineSpec | None", options: BenchOptions) -> tuple[Budget, Budget]:
    """The limits of slots and memory, from the options or the manifest's engine; only bytes if only these are given."""
    gpu_bytes = parse_size_option(options.max_gpu_bytes, "--max-gpu-bytes")
    cpu_bytes = parse_size_option(options.max_cpu_bytes, "--max-cpu-bytes")
    loras = options.max_loras or (engine and engine.max_loras)
    slots = loras or (min(MAX_LORAS, count) if gpu_bytes is None else count)
    cpu_loras = options.max_cpu_loras or (engine and engine.max_cpu_loras)
    places = cpu_loras or (max(slots, min(MAX_CPU_LORAS, count)) if cpu_bytes is None else count)
    check_max_cpu_loras(places, slots if gpu_bytes is None else None)
    return Budget(slots, gpu_bytes), Budget(places, cpu_bytes)


def _links(options: BenchOptions) -> Links:
    """The load times: of an engine, measured, given, or the defaults."""
    given = list(options.given(("disk_link", "gpu_link")))
    for flag in options.given(("links", "measured")):
        if given:
            raise UsageError(f"{flag} and --disk-link or --gpu-link cannot be used together")
    if options.links is not None:
        options.refuse(("measured",), "not for --links", "use one of them")
        return parse_links(options.links, "--links")
    if options.measured is not None:
        return read_links(options.measured, "--measured")
    source = f"{' and '.join(given)} as given"
    return Links(
        parse_link(options.disk_link, "--disk-link") if options.disk_link else DISK_LINK,
        parse_link(options.gpu_link, "--gpu-link") if options.gpu_link else GPU_LINK,
        OWN_SOURCE if not given else source if len(given) == 2 else f"{source}, the other: {OWN_SOURCE}",
    )


def _policy_progress(trace: Trace, policies: Sequence[str]) -> Callable[[str], None]:
    """Reports each finished policy of a long simulation on a terminal; does nothing elsewhere."""
    if len(trace) * len(policies) < 500_000 or not sys.stderr.isatty():
        return lambda _policy: None
    return lambda policy: to_stderr(f"{policy}: done")
