"""``lora-cli serve-bench``: what adapters cost, measured in a warm process or reckoned in a simulation."""

from collections.abc import Mapping
from typing import Any, TypeVar

from lora_cli.cli import bench_options as bench
from lora_cli.cli import options, typer
from lora_cli.cli.bench_flags import FleetFlags, LineupFlags, LiveFlags, ResultFlags, TierFlags, WorkloadFlags
from lora_cli.cli.output import ReportFormat
from lora_cli.errors import UsageError

T = TypeVar("T")


def command(
    ctx: typer.Context,
    refs: options.Refs = None,
    manifest: options.Manifest = None,
    base: options.Base = "",
    policy: options.PolicyFile = None,
    simulate: bench.Simulate = False,
    num_prompts: bench.NumPrompts = None,
    popularity: bench.Popularity = "zipf:1.0",
    drift: bench.Drift = None,
    scan: bench.Scan = None,
    sessions: bench.Sessions = None,
    request_rate: bench.RequestRate = "inf",
    burstiness: bench.Burstiness = "1",
    ramp_up_strategy: bench.RampUp = None,
    ramp_up_start_rps: bench.RampUpStart = None,
    ramp_up_end_rps: bench.RampUpEnd = None,
    input_len: bench.InputLen = "128",
    output_len: bench.OutputLen = "16",
    trace: bench.TraceFile = None,
    save_trace: bench.SaveTrace = None,
    url: bench.Url = None,
    forward: bench.Forward = None,
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
    device: bench.Device = None,
    eviction: bench.Eviction = None,
    num_adapters: bench.NumAdapters = None,
    ranks: bench.Ranks = None,
    bytes_per_rank: bench.BytesPerRank = None,
    max_gpu_bytes: bench.MaxGpuBytes = None,
    max_cpu_bytes: bench.MaxCpuBytes = None,
    disk_link: bench.DiskLink = None,
    gpu_link: bench.GpuLink = None,
    measured: bench.Measured = None,
    objective: bench.Goal = None,
    plan: bench.Plan = None,
    seed: bench.Seed = 0,
    save_result: bench.SaveResult = False,
    result_dir: bench.ResultDir = None,
    result_filename: bench.ResultFilename = None,
    metadata: bench.Metadata = None,
    baseline: bench.Baseline = None,
    fail_if: bench.FailIf = None,
    output_format: bench.BenchFormat = ReportFormat.HUMAN,
    output: bench.Output = None,
) -> None:
    """Measure what adapters cost, cold and warm: requests to a warm process that is started for them.

    With --url a server that runs is asked, each request at its time. With --forward modules there is no model: one
    request after the other goes through the slots. With --simulate only the books of the tiers are kept, for several
    eviction policies over the same requests.
    """
    said = locals()
    workload, tiers = picked(WorkloadFlags, said), picked(TierFlags, said)
    fleet, wanted = picked(FleetFlags, said), picked(ResultFlags, said)
    there, lineup = picked(LiveFlags, said), picked(LineupFlags, said)
    if url is not None:
        from lora_cli.cli.live import live

        elsewhere: dict[str, object] = {
            name: said[name] for kind in (TierFlags, FleetFlags) for name in kind.__match_args__
        }
        _refuse({"REFs": refs, "-f": manifest, "--base": base, "--policy": policy}, "not for --url", SERVED)
        _refuse(
            _flags({"simulate": simulate, "forward": forward, **elsewhere}), "not for --url", "the server has its own"
        )
        raise typer.Exit(live(there, workload, wanted, ctx.obj))
    reckoned = {name: said[name] for name in FleetFlags.__match_args__ if name not in {"num_adapters", "ranks"}}
    if forward is not bench.Answering.MODULES and not simulate:
        from lora_cli.cli.live_here import live_here

        _refuse(_flags(reckoned), "for --simulate only")
        raise typer.Exit(live_here(ctx.obj, lineup, there, workload, tiers, fleet, wanted))
    at_a_server = {name: said[name] for name in LiveFlags.__match_args__ if name not in {"api_key", "prompts"}}
    _refuse(_flags(at_a_server), "for a server", "--url http://HOST:PORT, or without --forward modules")
    if simulate:
        from lora_cli.cli.simulating import simulation

        named = {"REFs": refs, "-f": manifest, "--base": base, "--policy": policy, "--forward": forward}
        _refuse(named, "not for --simulate", PLAIN)
        raise typer.Exit(simulation(workload, tiers, fleet, wanted))
    from lora_cli.cli.measuring import measurement

    _refuse(_flags(reckoned), "for --simulate only")
    raise typer.Exit(measurement(ctx.obj, lineup, workload, tiers, fleet, wanted))


PLAIN = "it loads no adapters: --num-adapters 500 --ranks 8:.4,16:.4,64:.2, or --trace FILE"


SERVED = "it asks for adapters that the server has: --lora-modules NAME..."


def _flags(said: Mapping[Any, object]) -> dict[str, object]:
    """The same by the flags of their names."""
    return {f"--{name.replace('_', '-')}": value for name, value in said.items()}


def picked(kind: type[T], said: Mapping[str, Any]) -> T:
    """The flags of one kind, of all that were given."""
    return kind(**{name: said[name] for name in kind.__match_args__})  # type: ignore[attr-defined]


def _refuse(given: Mapping[str, object], why: str, hint: str = "") -> None:
    """Whoever gave one of these meant something else than what would happen.

    Raises:
        UsageError: one was given.
    """
    for name, value in given.items():
        if value:
            raise UsageError(f"{name} {'are' if name == 'REFs' else 'is'} {why}", hint=hint)
