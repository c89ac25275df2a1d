"""``lora-cli serve-bench``: what adapters cost, measured in a warm process or reckoned in a simulation."""

from collections.abc import Collection, Mapping
from dataclasses import replace

from lora_cli.cli import bench_flags as bench
from lora_cli.cli import typer
from lora_cli.cli.bench_flags import (
    Answering,
    FleetFlags,
    LineupFlags,
    LiveFlags,
    ResultFlags,
    TierFlags,
    WorkloadFlags,
)
from lora_cli.errors import UsageError


def command(
    ctx: typer.Context,
    *,
    lineup: LineupFlags,
    simulate: bench.Simulate = False,
    workload: WorkloadFlags,
    save_trace: bench.SaveTrace = None,
    there: LiveFlags,
    tiers: TierFlags,
    fleet: FleetFlags,
    seed: bench.Seed = 0,
    wanted: ResultFlags,
) -> None:
    """Measure what adapters cost, cold and warm: requests to a warm process that is started for them.

    With --url a server that runs is asked, each request at its time. With --forward modules there is no model: one
    request after the other goes through the slots. With --simulate only the books of the tiers are kept, for several
    eviction policies over the same requests.
    """
    workload, wanted = replace(workload, seed=seed), replace(wanted, save_trace=save_trace)
    if there.url is not None:
        from lora_cli.cli.live import live

        _refuse(_named(lineup), "not for --url", SERVED)
        elsewhere = {"--simulate": simulate, "--forward": there.forward, **_flags(tiers), **_flags(fleet)}
        _refuse(elsewhere, "not for --url", "the server has its own")
        raise typer.Exit(live(there, workload, wanted, ctx.obj))
    reckoned = _flags(fleet, besides={"num_adapters", "ranks"})
    if there.forward is not Answering.MODULES and not simulate:
        from lora_cli.cli.live_here import live_here

        _refuse(reckoned, "for --simulate only")
        raise typer.Exit(live_here(ctx.obj, lineup, there, workload, tiers, fleet, wanted))
    at_a_server = _flags(there, besides={"api_key", "prompts", "forward"})
    _refuse(at_a_server, "for a server", "--url http://HOST:PORT, or without --forward modules")
    if simulate:
        from lora_cli.cli.simulating import simulation

        _refuse(_named(lineup) | {"--forward": there.forward}, "not for --simulate", PLAIN)
        raise typer.Exit(simulation(ctx.obj, workload, tiers, fleet, wanted))
    from lora_cli.cli.measuring import measurement

    _refuse(reckoned, "for --simulate only")
    raise typer.Exit(measurement(ctx.obj, lineup, workload, tiers, fleet, wanted))


PLAIN = "it loads no adapters: --num-adapters 500 --ranks 8:.4,16:.4,64:.2, or --trace FILE"
SERVED = "it asks for adapters that the server has: --lora-modules NAME..."


def _named(lineup: LineupFlags) -> dict[str, object]:
    """What names adapters, a base or a policy, by how that is written."""
    return {"REFs": lineup.refs, "-f": lineup.manifest, "--base": lineup.base, "--policy": lineup.policy}


def _flags(said: object, besides: Collection[str] = ()) -> dict[str, object]:
    """What was said in one class of options, by their flags."""
    return {
        f"--{name.replace('_', '-')}": getattr(said, name)
        for name in type(said).__match_args__  # type: ignore[attr-defined]
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
