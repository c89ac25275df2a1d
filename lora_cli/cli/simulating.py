"""``serve-bench --simulate``: several policies over the same requests, in the books of the tiers alone."""

import sys
from collections.abc import Callable, Collection, Sequence

from lora_cli.bench.fleet import Fleet, sized
from lora_cli.bench.links import BYTES_PER_RANK, DISK_LINK, GPU_LINK, Links, parse_link
from lora_cli.bench.measured_links import read_links
from lora_cli.bench.metrics import simulated_names, simulation_metrics
from lora_cli.bench.ranks import parse_ranks
from lora_cli.bench.report import BenchSetting, VllmRun, bench_report, run_of
from lora_cli.bench.run import environment
from lora_cli.bench.simulation import DEFINITIONS, simulate_all
from lora_cli.bench.trace import Trace
from lora_cli.cli.bench_options import FleetFlags, ResultFlags, TierFlags, WorkloadFlags
from lora_cli.cli.bench_results import conclude, wanted_of
from lora_cli.cli.bench_workload import adapter_names, save_trace, workload_of
from lora_cli.cli.lineup import MAX_CPU_LORAS, MAX_LORAS
from lora_cli.cli.main import INTERRUPTED
from lora_cli.cli.output import to_stderr
from lora_cli.cli.sizes import size_of
from lora_cli.errors import UsageError
from lora_cli.settings import Settings
from lora_cli.tiers.budget import Budget
from lora_cli.tiers.view import Objective

REQUESTS, ADAPTERS, RANKS = 20_000, 500, "16"
POLICIES = "lru,lfu,gdsf,adaptive,opt"


def simulation(
    settings: Settings, flags: WorkloadFlags, tiers: TierFlags, fleet_flags: FleetFlags, wanted: ResultFlags
) -> int:
    """Simulate what is asked for, and tell it; the exit code.

    Raises:
        LoraCliError: what is asked for is wrong or too large, or a file cannot be read or written.
    """
    from lora_cli.bench.policies import parse_policies

    for flag, said in (("--device", tiers.device), ("--max-lora-rank", tiers.max_lora_rank)):
        if said is not None:
            raise UsageError(f"{flag} is not for --simulate", hint="there is no device")
    if fleet_flags.plan:
        from lora_cli.cli.planning import planned

        return planned(settings, flags, tiers, fleet_flags, wanted)
    policies = parse_policies(tiers.eviction or POLICIES)
    checked = wanted_of(wanted, simulated_names(policies), quiet=settings.quiet)
    trace, fleet, run = scene(flags, tiers, fleet_flags)
    if wanted.save_trace is not None:
        save_trace(trace, wanted.save_trace)
    found = simulate_all(trace, fleet, policies, objective_of(fleet_flags), told=_teller(trace, policies))
    report = bench_report(*run, found, DEFINITIONS, simulation_metrics(found.policies))
    return as_far_as_done(policies, found.policies, lambda: conclude(report, {flags.seed: trace}, checked))


def as_far_as_done(policies: Sequence[str], done: Collection[str], tell: Callable[[], int]) -> int:
    """Tells what there is, and which policies an interrupt left out of it; the exit code.

    Raises:
        LoraCliError: a file cannot be written.
    """
    if len(done) == len(policies):
        return tell()
    if done:
        tell()
    names = [", ".join(policy for policy in policies if (policy in done) is it) for it in (True, False)]
    to_stderr(f"interrupted: {names[0] or 'no policy'} done, {names[1]} not")
    return INTERRUPTED


def scene(
    flags: WorkloadFlags, tiers: TierFlags, fleet_flags: FleetFlags
) -> tuple[Trace, Fleet, tuple[VllmRun, BenchSetting]]:
    """The requests, the fleet that they are put to, and both in words.

    Raises:
        LoraCliError: what is asked for is wrong, or a file cannot be read.
    """
    workload = workload_of(flags)
    names = adapter_names(workload.names, fleet_flags.num_adapters, ADAPTERS)
    trace = workload.over(names, REQUESTS)
    fleet = _fleet(names, tiers, fleet_flags, flags.seed)
    words = workload.words() | {"ranks": fleet_flags.ranks or RANKS}
    rate = workload.request_rate if flags.trace is None else None
    return trace, fleet, run_of("simulate", trace, flags.seed, words, environment(), rate, workload.burstiness)


def objective_of(flags: FleetFlags) -> Objective:
    """What the policies are to make small."""
    return flags.objective.value if flags.objective is not None else "stall"


def _fleet(names: Sequence[str], tiers: TierFlags, flags: FleetFlags, seed: int) -> Fleet:
    """The adapters' bytes, the two tiers and the ways into them."""
    per_rank = size_of(flags.bytes_per_rank, "--bytes-per-rank") or BYTES_PER_RANK
    sizes = sized(names, parse_ranks(flags.ranks or RANKS), seed, per_rank)
    gpu, cpu = _budgets(len(names), tiers, flags)
    largest = max(sizes.values())
    for flag, budget in (("--max-gpu-bytes", gpu), ("--max-cpu-bytes", cpu)):
        if budget.max_bytes is not None and budget.max_bytes < largest:
            raise UsageError(f"{flag} is {budget.max_bytes}, and the largest adapter has {largest} bytes")
    return Fleet(sizes, gpu, cpu, _links(flags))


def _budgets(count: int, tiers: TierFlags, flags: FleetFlags) -> tuple[Budget, Budget]:
    """What slots and memory hold. Bytes alone bind where they are given and numbers are not."""
    gpu_bytes = size_of(flags.max_gpu_bytes, "--max-gpu-bytes")
    cpu_bytes = size_of(flags.max_cpu_bytes, "--max-cpu-bytes")
    slots = tiers.max_loras or (min(MAX_LORAS, count) if gpu_bytes is None else count)
    places = tiers.max_cpu_loras or (max(slots, min(MAX_CPU_LORAS, count)) if cpu_bytes is None else count)
    if places < slots and gpu_bytes is None:
        raise UsageError(
            f"--max-cpu-loras is {places}, less than max_loras, which is {slots}", hint=f"--max-cpu-loras {slots}"
        )
    return Budget(slots, gpu_bytes), Budget(places, cpu_bytes)


def _links(flags: FleetFlags) -> Links:
    """What loads cost: measured, given or the defaults."""
    if flags.measured is not None:
        if flags.disk_link or flags.gpu_link:
            raise UsageError("--measured and --disk-link or --gpu-link exclude each other")
        return read_links(flags.measured, "--measured")
    return Links(
        parse_link(flags.disk_link, "--disk-link") if flags.disk_link else DISK_LINK,
        parse_link(flags.gpu_link, "--gpu-link") if flags.gpu_link else GPU_LINK,
    )


def _teller(trace: Trace, policies: Sequence[str]) -> Callable[[str], None]:
    """Says on a terminal which policy is done, where that takes long; elsewhere nothing."""
    if len(trace) * len(policies) < 500_000 or not sys.stderr.isatty():
        return lambda _policy: None
    return lambda policy: to_stderr(f"{policy}: done")
