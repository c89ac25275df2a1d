"""``serve-bench`` without a URL: the adapters in a server of our own, measured as any other."""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

from lora_cli.bench.live.numbers import live_names
from lora_cli.cli.bench_options import FleetFlags, LineupFlags, LiveFlags, ResultFlags, TierFlags, WorkloadFlags
from lora_cli.cli.bench_results import wanted_of
from lora_cli.cli.bench_workload import workload_of
from lora_cli.cli.lineup import Lineup, base_model, limits
from lora_cli.cli.live import OwnServer, live
from lora_cli.cli.measuring import chosen_device, chosen_eviction
from lora_cli.cli.own_server import own_server
from lora_cli.cli.servable import Failures, measured_lineup, servable
from lora_cli.cli.warming import Device, Eviction, Forward, Run, base_directory
from lora_cli.core.reference import AdapterRef
from lora_cli.errors import ERRORS, MissingExtra, UsageError
from lora_cli.runtime.plan import Limits
from lora_cli.settings import Settings


def live_here(
    settings: Settings,
    named: LineupFlags,
    flags: LiveFlags,
    workload: WorkloadFlags,
    tiers: TierFlags,
    fleet: FleetFlags,
    wanted: ResultFlags,
) -> int:
    """Start the server, measure it and tell it; the exit code. A base without weights gets random ones.

    Raises:
        LoraCliError: what is asked for is wrong, or keeps the server from serving.
    """
    for package in ("torch", "transformers"):
        if find_spec(package) is None:
            raise MissingExtra("serve-bench without --forward modules", "models", package)
    if flags.lora_modules:
        raise UsageError("--lora-modules is for --url", hint="REFs or a manifest name the adapters here")
    wanted_of(wanted, live_names())
    device, eviction = chosen_device(tiers.device or "auto"), chosen_eviction(tiers.eviction or "adaptive")
    with ExitStack() as stack:
        asked, own = stack.enter_context(measured_lineup(settings, named, workload_of(workload), fleet))
        most = limits(asked, tiers.max_loras, tiers.max_cpu_loras, tiers.max_lora_rank or _largest_rank(fleet))
        dummy = _dummy(asked.base, settings)
        failures = Failures()
        asked = _servable(stack, asked, most, own, failures)
        run = Run(most, Device(device), Forward.MODEL, Eviction(eviction), dummy=dummy)
        url = stack.enter_context(own_server(asked, run, own))
        facts = {"max_loras": str(most.max_loras), "max_cpu_loras": str(most.max_cpu_loras), "eviction": eviction}
        facts |= {"weights": "dummy"} if dummy is not None else {}
        return live(replace(flags, url=url, api_key=""), workload, wanted, settings, OwnServer(facts, failures))


def _servable(stack: ExitStack, asked: Lineup, most: Limits, settings: Settings, failures: Failures) -> Lineup:
    """Those of the adapters that can be served, held until the end.

    Raises:
        LoraCliError: none can; the reason of the first.
    """
    from lora_cli.store import Store
    from lora_cli.store.holds import holding

    hold = stack.enter_context(holding(Store(settings.cache_dir)))
    names = {job.name for job in servable(asked, base_model(asked.base, settings), most, settings, hold, failures)}
    if not names:
        (name, reason), *more = failures.reasons.items()
        hint = "; ".join(filter(None, (failures.hints[name], f"nor can {len(more)} more" if more else "")))
        raise ERRORS[failures.code](f"{name} cannot be served: {reason}", hint=hint)
    return replace(asked, items=tuple(item for item in asked.items if item.name in names))


def _dummy(base: str | AdapterRef, settings: Settings) -> Mapping[str, Any] | None:
    """The config of a base whose weights are not on this disk; what they are is the same to the clock."""
    from lora_cli.reading.base import has_weights
    from lora_cli.validation import open_config

    directory = base_directory(base)
    return None if directory is not None and has_weights(directory) else open_config(base, settings)


def _largest_rank(fleet: FleetFlags) -> int | None:
    """What a slot must take for those that nobody trained; of others the server knows it once they are read."""
    if fleet.num_adapters is None:
        return None
    from lora_cli.bench.ranks import parse_ranks
    from lora_cli.cli.synthetic_lineup import RANKS

    return max(rank for rank, _ in parse_ranks(fleet.ranks or RANKS).shares)
