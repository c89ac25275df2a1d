"""``lora-cli serve-bench``: what adapters cost, measured in a warm process or reckoned in a simulation."""

from collections.abc import Collection, Mapping
from dataclasses import fields

import typer

from lora_cli.cli import bench_options as bench
from lora_cli.cli import options
from lora_cli.cli.bench_options import (
    Answering,
    FleetFlags,
    LineupFlags,
    LiveFlags,
    ResultFlags,
    TierFlags,
    WorkloadFlags,
)
from lora_cli.cli.output import ReportFormat
from lora_cli.errors import UsageError
from lora_cli.settings import Settings

EXAMPLES = (
    "lora-cli serve-bench --simulate --num-adapters 500 --ranks 8:.4,16:.4,64:.2",
    "lora-cli serve-bench -f set.yaml --request-rate 20 --save-result",
    "lora-cli serve-bench --url http://127.0.0.1:8000 --lora-modules sql chat --goodput ttft:500",
)


def command(
    ctx: typer.Context,
    refs: options.Refs = None,
    manifest: options.Manifest = None,
    base: options.Base = "",
    policy: options.PolicyFile = None,
    simulate: bench.Simulate = False,
    url: bench.Url = None,
    forward: bench.ForwardBy = None,
    num_prompts: bench.NumPrompts = None,
    popularity: bench.Popularity = "zipf:1.0",
    drift: bench.Drift = None,
    scan: bench.Scan = None,
    sessions: bench.Sessions = None,
    request_rate: bench.RequestRate = "inf",
    burstiness: bench.Burstiness = "1",
    ramp_up_strategy: bench.RampUpStrategy = None,
    ramp_up_start_rps: bench.RampUpStart = None,
    ramp_up_end_rps: bench.RampUpEnd = None,
    input_len: bench.InputLen = "128",
    output_len: bench.OutputLen = "16",
    seed: bench.Seed = 0,
    trace: bench.Trace = None,
    api_key: bench.ApiKey = "",
    lora_modules: bench.LoraModules = None,
    max_concurrency: bench.MaxConcurrency = None,
    prompts: bench.Prompts = "ids",
    goodput: bench.Goodput = None,
    control: bench.Control = False,
    probe_request_rate: bench.ProbeRequestRate = None,
    probe_adapter: bench.ProbeAdapter = None,
    num_seeds: bench.NumSeeds = None,
    max_loras: bench.MaxLoras = None,
    max_cpu_loras: bench.MaxCpuLoras = None,
    max_lora_rank: bench.MaxLoraRank = None,
    device: bench.OnDevice = None,
    eviction: bench.EvictionBy = None,
    num_adapters: bench.NumAdapters = None,
    ranks: bench.RanksOf = None,
    bytes_per_rank: bench.BytesPerRank = None,
    max_gpu_bytes: bench.MaxGpuBytes = None,
    max_cpu_bytes: bench.MaxCpuBytes = None,
    disk_link: bench.DiskLink = None,
    gpu_link: bench.GpuLink = None,
    measured: bench.Measured = None,
    objective: bench.ObjectiveOf = None,
    plan: bench.Plan = None,
    save_trace: bench.SaveTrace = None,
    save_result: bench.SaveResult = False,
    result_dir: bench.ResultDir = None,
    result_filename: bench.ResultFilename = None,
    metadata: bench.Metadata = None,
    baseline: bench.Baseline = None,
    fail_if: bench.FailIf = None,
    output_format: bench.OutputFormat = ReportFormat.HUMAN,
    output: options.OutputFile = None,
) -> None:
    """Measure cold starts, tier hits, eviction and latency.

    Without --url a server with the base and the adapters is started and measured. With --url a running server is
    measured. With --forward modules requests go through the slots of a warm process one after the other, without a
    model. With --simulate only the tiers are simulated, for several eviction policies over the same requests.
    """
    lineup = LineupFlags(refs, manifest, base, policy)
    workload = WorkloadFlags(
        num_prompts, popularity, drift, scan, sessions, request_rate, burstiness, ramp_up_strategy, ramp_up_start_rps,
        ramp_up_end_rps, input_len, output_len, seed, trace,
    )  # fmt: skip
    there = LiveFlags(
        url, forward, api_key, lora_modules, max_concurrency, prompts, goodput, control=control,
        probe_request_rate=probe_request_rate, probe_adapter=probe_adapter, num_seeds=num_seeds,
    )  # fmt: skip
    tiers = TierFlags(max_loras, max_cpu_loras, max_lora_rank, device, eviction)
    fleet = FleetFlags(
        num_adapters,
        ranks,
        bytes_per_rank,
        max_gpu_bytes,
        max_cpu_bytes,
        disk_link,
        gpu_link,
        measured,
        objective,
        plan,
    )
    wanted = ResultFlags(
        save_trace, save_result=save_result, result_dir=result_dir, result_filename=result_filename, metadata=metadata,
        baseline=baseline, fail_if=fail_if, output_format=output_format, output=output,
    )  # fmt: skip
    raise typer.Exit(_measured(ctx.obj, lineup, workload, there, tiers, fleet, wanted, simulate=simulate))


def _measured(
    settings: Settings,
    lineup: LineupFlags,
    workload: WorkloadFlags,
    there: LiveFlags,
    tiers: TierFlags,
    fleet: FleetFlags,
    wanted: ResultFlags,
    *,
    simulate: bool,
) -> int:
    """Measures in the way that the options ask for; gives the exit code."""
    if there.url is not None:
        from lora_cli.cli.live import live

        _refuse(_named(lineup), "not for --url", SERVED)
        elsewhere = {"--simulate": simulate, "--forward": there.forward, **_flags(tiers), **_flags(fleet)}
        _refuse(elsewhere, "not for --url", "the server has its own")
        return live(there, workload, wanted, settings)
    reckoned = _flags(fleet, besides={"num_adapters", "ranks"})
    if there.forward is not Answering.MODULES and not simulate:
        from lora_cli.cli.live_here import live_here

        _refuse(reckoned, "for --simulate only")
        return live_here(settings, lineup, there, workload, tiers, fleet, wanted)
    at_a_server = _flags(there, besides={"api_key", "prompts", "forward"})
    _refuse(at_a_server, "for a server", f"--url URL, or without {'--simulate' if simulate else '--forward modules'}")
    if simulate:
        from lora_cli.cli.simulating import simulation

        _refuse(_named(lineup) | {"--forward": there.forward}, "not for --simulate", PLAIN)
        return simulation(settings, workload, tiers, fleet, wanted)
    from lora_cli.cli.measuring import measurement

    _refuse(reckoned, "for --simulate only")
    return measurement(settings, lineup, workload, tiers, fleet, wanted)


PLAIN = "it loads no adapters: --num-adapters 500 --ranks 8:.4,16:.4,64:.2, or --trace FILE"
SERVED = "it asks for adapters that the server has: --lora-modules NAME..."


def _named(lineup: LineupFlags) -> dict[str, object]:
    """What names adapters, a base or a policy, by how that is written."""
    return {"REFs": lineup.refs, "-f": lineup.manifest, "--base": lineup.base, "--policy": lineup.policy}


def _flags(said: LiveFlags | TierFlags | FleetFlags, besides: Collection[str] = ()) -> dict[str, object]:
    """What was said in one class of options, by their flags."""
    return {
        f"--{name.replace('_', '-')}": getattr(said, name)
        for name in (one.name for one in fields(said))
        if name not in besides
    }


def _refuse(given: Mapping[str, object], why: str, hint: str = "") -> None:
    """Whoever gave one of these meant something else than what would happen.

    Raises:
        UsageError: one was given.
    """
    for name, value in given.items():
        if value:
            raise UsageError(f"{name} {'are' if name == 'REFs' else 'is'} {why}", hint=hint)
