"""``lora-cli serve-bench``: measures adapters in a server or a warm process, or simulates the tiers."""

from functools import wraps
from typing import Any

import typer

from lora_cli.cli.bench_options import BenchOptions
from lora_cli.settings import Settings

EXAMPLES = (
    "lora-cli serve-bench --simulate --num-adapters 500 --ranks 8:.4,16:.4,64:.2",
    "lora-cli serve-bench -f set.yaml --request-rate 20 --save-result",
    "lora-cli serve-bench --url http://127.0.0.1:8000 --lora-modules sql chat --goodput ttft:500",
)

SERVED = "it requests adapters of the server: --lora-modules NAME..."

ADAPTER_OPTIONS = ("refs", "manifest", "base", "policy")
TIER_OPTIONS = ("max_loras", "max_cpu_loras", "max_lora_rank", "device", "eviction")
SYNTHETIC_OPTIONS = ("num_adapters", "ranks")
SIMULATION_OPTIONS = (
    "bytes_per_rank", "max_gpu_bytes", "max_cpu_bytes", "disk_link", "gpu_link", "links", "step", "max_num_seqs",
    "max_num_batched_tokens", "measured",
    "live_result", "plan", "sweep", "ray",
)  # fmt: skip
SERVER_OPTIONS = (
    "lora_modules", "max_concurrency", "goodput", "control", "probe_request_rate", "probe_adapter", "num_seeds",
    "save_links",
)  # fmt: skip


@wraps(BenchOptions, assigned=(), updated=())  # typer reads the options off its fields
def command(**given: Any) -> None:
    """Measure cold starts, tier hits, eviction and latency.

    Without --url a server with the base and the adapters is started and measured. With --url a running server is
    measured. With --forward modules requests go through the slots of a warm process one after the other, without a
    model. With --simulate only the tiers are simulated, for several eviction policies over the same requests.
    """
    chosen = BenchOptions(**given)
    raise typer.Exit(_measured(chosen.ctx.obj, chosen))


def _measured(settings: Settings, chosen: BenchOptions) -> int:
    """Runs the selected measurement; returns the exit code."""
    if chosen.url is not None:
        from lora_cli.cli.bench_live import measure_server

        chosen.refuse(ADAPTER_OPTIONS, "not for --url", SERVED)
        elsewhere = ("simulate", "forward", *TIER_OPTIONS, *SYNTHETIC_OPTIONS, *SIMULATION_OPTIONS)
        chosen.refuse(elsewhere, "not for --url", "the server has its own tiers and adapters")
        return measure_server(settings, chosen)
    if chosen.forward != "modules" and not chosen.simulate:
        from lora_cli.cli.bench_warm import measure_own_server

        chosen.refuse(SIMULATION_OPTIONS, "for --simulate only")
        return measure_own_server(settings, chosen)
    instead = "--simulate" if chosen.simulate else "--forward modules"
    chosen.refuse(SERVER_OPTIONS, "for a server", f"--url URL, or without {instead}")
    if chosen.simulate:
        from lora_cli.cli.bench_simulate import simulate

        chosen.refuse(("base", "forward"), "not for --simulate", "it loads no adapters: only their sizes count")
        return simulate(settings, chosen)
    from lora_cli.cli.bench_warm import measure_modules

    chosen.refuse(SIMULATION_OPTIONS, "for --simulate only")
    return measure_modules(settings, chosen)
