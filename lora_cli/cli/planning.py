"""``serve-bench --simulate --plan``: how many slots and places in memory a goal takes at this traffic."""

from lora_cli.bench.goals import of_waiting, parse_goals
from lora_cli.bench.policies import OPT, parse_policies
from lora_cli.bench.report import bench_report
from lora_cli.bench.sizing import DEFINITIONS, plan_metrics, planned_names, size_all
from lora_cli.cli.bench_options import FleetFlags, ResultFlags, TierFlags, WorkloadFlags
from lora_cli.cli.bench_results import conclude, wanted_of
from lora_cli.cli.bench_workload import save_trace
from lora_cli.cli.output import to_stderr
from lora_cli.cli.simulating import as_far_as_done, objective_of, scene
from lora_cli.errors import UsageError
from lora_cli.settings import Settings

POLICIES = "lru,adaptive"
NO_QUEUE = "without --request-rate, or times in --trace, no request queues: a stall is its own load alone"


def planned(
    settings: Settings, flags: WorkloadFlags, tiers: TierFlags, fleet_flags: FleetFlags, wanted: ResultFlags
) -> int:
    """Find out what the goals take, and tell it; 1 when a policy meets them with no number of slots.

    Raises:
        LoraCliError: what is asked for is wrong, or a file cannot be read or written.
    """
    asked_for = {
        "--max-loras": tiers.max_loras,
        "--max-cpu-loras": tiers.max_cpu_loras,
        "--max-gpu-bytes": fleet_flags.max_gpu_bytes,
        "--max-cpu-bytes": fleet_flags.max_cpu_bytes,
    }
    for flag, said in asked_for.items():
        if said is not None:
            raise UsageError(f"{flag} and --plan exclude each other", hint="it is what --plan finds out")
    goals = parse_goals(fleet_flags.plan or ())
    policies = parse_policies(tiers.eviction or POLICIES)
    if OPT in policies:
        raise UsageError("--plan is for policies that can be had, and opt is none", hint=f"--eviction {POLICIES}")
    checked = wanted_of(wanted, planned_names(policies), quiet=settings.quiet)
    trace, fleet, run = scene(flags, tiers, fleet_flags)
    if of_waiting(goals) and not trace.timed and not settings.quiet:
        to_stderr(f"warning: {NO_QUEUE}")
    if wanted.save_trace is not None:
        save_trace(trace, wanted.save_trace)
    found = size_all(trace, fleet, policies, goals, objective_of(fleet_flags))
    answers = found.plan.policies
    report = bench_report(*run, found, DEFINITIONS, plan_metrics(answers))
    code = as_far_as_done(policies, answers, lambda: conclude(report, {flags.seed: trace}, checked))
    return code or int(not all(one.answers for one in answers.values()))
