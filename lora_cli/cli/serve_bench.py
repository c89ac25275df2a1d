"""``lora-cli serve-bench``: measures adapters in a server or a warm process, or simulates the tiers."""

from functools import wraps
from typing import Any

import typer

from lora_cli.cli.bench_options import BenchOptions
from lora_cli.settings import Settings

EXAMPLES = (
    "lora-cli serve-bench --simulate --num-adapters 500 --max-loras 16",
    "lora-cli serve-bench -f set.yaml --request-rate 20 --format json -o run.json",
    "lora-cli serve-bench --url http://127.0.0.1:8000 --lora-modules sql chat --goodput ttft:500",
)

SERVED = "it requests adapters of the server: --lora-modules NAME..."

ADAPTER_OPTIONS = ("refs", "manifest", "base", "policy")
TIER_OPTIONS = ("max_loras", "max_cpu_loras", "max_lora_rank", "device", "eviction")
SYNTHETIC_OPTIONS = ("num_adapters", "ranks")
SERVER_OPTIONS = ("lora_modules", "max_concurrency", "goodput")


@wraps(BenchOptions, assigned=(), updated=())  # typer reads the options off its fields
def command(**given: Any) -> None:
    """Measure cold starts, tier hits, eviction and latency.

    Without --url a server with the base and the adapters is started and measured. With --url a running server is
    measured. With --simulate only the tiers are simulated, for several eviction policies over the same requests.
    """
    chosen = BenchOptions(**given)
    raise typer.Exit(_measured(chosen.ctx.obj, chosen))


def _measured(settings: Settings, chosen: BenchOptions) -> int:
    """Runs the selected measurement; returns the exit code."""
    if chosen.url is not None:
        from lora_cli.cli.bench_live import measure_server

        chosen.refuse(ADAPTER_OPTIONS, "not for --url", SERVED)
        elsewhere = ("simulate", *TIER_OPTIONS, *SYNTHETIC_OPTIONS)
        chosen.refuse(elsewhere, "not for --url", "the server has its own tiers and adapters")
        return measure_server(settings, chosen)
    if chosen.simulate:
        from lora_cli.cli.bench_simulate import simulate

        chosen.refuse(SERVER_OPTIONS, "for a server", "--url URL, or without --simulate")
        chosen.refuse(("base", "policy", "ranks"), "not for --simulate", "it loads no adapters")
        return simulate(chosen)
    from lora_cli.cli.bench_warm import measure_own_server

    return measure_own_server(settings, chosen)
