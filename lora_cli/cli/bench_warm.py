"""``serve-bench`` of lora-cli's own warm process: a server that is started, or its slots alone (``--forward modules``).

The server is ``warm --serve --forward model`` in a child process, measured as any other one. It listens at a private
Unix socket, and ends with this process.
"""

import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, cast, get_args

from lora_cli.bench.live.result import live_names
from lora_cli.bench.measured_run import MEASURED, Served, environment, measured_report, run_trace
from lora_cli.bench.report import MeasurementReport, run_of
from lora_cli.bench.simulator import parse_ranks
from lora_cli.bench.synthetic_adapters import total_bytes, write_synthetic
from lora_cli.bench.trace import Trace
from lora_cli.cli.adapter_selection import Lineup, base_model, limits, lineup, reaching, with_base
from lora_cli.cli.bench_live import live
from lora_cli.cli.bench_options import RANKS, BenchOptions, Workload, adapter_names, save_trace, workload_of
from lora_cli.cli.bench_results import Failures, concluding, counter
from lora_cli.cli.output import to_stderr
from lora_cli.cli.warm_plan import Run, admitting, has_base_weights, planned, require_packages
from lora_cli.cli.warm_serve import Serve, warm_serve
from lora_cli.core.adapter_request import Item
from lora_cli.core.base_model import BaseModel
from lora_cli.core.did_you_mean import did_you_mean
from lora_cli.core.text import safe, size
from lora_cli.endpoint.address import Address
from lora_cli.errors import ERRORS, INTERRUPTED, LoraCliError, MachineError, UsageError
from lora_cli.runtime.child_process import ChildProcess, Died, Program
from lora_cli.runtime.composable import scalings
from lora_cli.runtime.load_jobs import reported
from lora_cli.runtime.messages import Job
from lora_cli.runtime.plan import Device, Limits, lay_out, needs_of
from lora_cli.runtime.warm_process import WarmProcess
from lora_cli.settings import Settings
from lora_cli.store import Store
from lora_cli.store.in_use import InUseMarker
from lora_cli.tiers.eviction.registry import PolicyName
from lora_cli.validation import Terms, open_config

REQUESTS = 200
"""How many there are if not given."""

COPIES = 3
"""Each synthetic adapter is on the disk as it was written, as the cache has it, and packed."""

STARTED_S = 0.02
SERVER = Program(module="lora_cli.cli.bench_warm", title="the server", stop_deadline_s=15.0, shown=True)
LOAD_TIMEOUT = "10m"


def measurement(settings: Settings, options: BenchOptions) -> int:
    """Measure the workload in a warm process, and report it; the exit code.

    Raises:
        LoraCliError: what is asked for is wrong, or there is no base or no torch.
    """
    require_packages("serve-bench", "warm", "torch")
    rates = {"--request-rate": options.request_rate != "inf", "--ramp-up-strategy": options.ramp_up_strategy}
    for flag in (flag for flag, given in rates.items() if given):
        raise UsageError(f"{flag} is not for --forward modules", hint="it sends the warm process one request at a time")
    conclude, workload = concluding(options, MEASURED), workload_of(options)
    failures: Failures = {}
    with measured_lineup(settings, options, workload) as (asked, own):
        trace = workload.over([item.name for item in asked.items], REQUESTS, options.seed)
        device, eviction = chosen(options)
        most = limits(asked, options.max_loras, options.max_cpu_loras, options.max_lora_rank)
        run = Run(most, device, "modules", eviction)
        save_trace(trace, options.save_trace)
        result, where = _measure(asked, run, trace, options.seed, own, failures)
        words = workload.words()
        where = environment(base=str(asked.base), **words, eviction=eviction, **where)
        report = measured_report(*run_of("in-process", trace, options.seed, words, where), result)
        code = max([conclude(report, {options.seed: trace}), *(one.exit_code for one in failures.values())])
    if result.requests < len(trace):
        to_stderr(f"interrupted after {result.requests} of {len(trace)} requests")
        return INTERRUPTED
    return code


def own_server_measured(settings: Settings, options: BenchOptions) -> int:
    """Start the server, measure it and report it; the exit code. A base without weights gets random ones.

    Raises:
        LoraCliError: what is asked for is wrong, or keeps the server from serving.
    """
    require_packages("serve-bench without --forward modules", "models", "torch", "transformers")
    options.refuse(("lora_modules",), "for --url", "set the adapters with REFs or a manifest")
    concluding(options, live_names())
    device, eviction = chosen(options)
    with ExitStack() as stack:
        asked, own = stack.enter_context(measured_lineup(settings, options, workload_of(options)))
        rank = options.max_lora_rank
        if rank is None and options.num_adapters is not None:
            # What a slot must take for synthetic adapters; of others the server knows it once they are read.
            rank = max(rank for rank, _ in parse_ranks(options.ranks or RANKS).shares)
        most = limits(asked, options.max_loras, options.max_cpu_loras, rank)
        # The config of a base whose weights are not on this disk; what they are is the same to the clock.
        dummy = None if has_base_weights(asked.base) else open_config(asked.base, settings)
        failures: Failures = {}
        hold = stack.enter_context(InUseMarker(Store(own.cache_dir)))
        jobs = servable(asked, base_model(asked.base, own), most, own, hold, failures)
        if not jobs:
            raise _none_servable(failures)
        asked = replace(asked, items=tuple(item for item in asked.items if item.name in jobs))
        url = stack.enter_context(own_server(asked, Run(most, device, "model", eviction, dummy=dummy), own))
        facts = {"max_loras": str(most.max_loras), "max_cpu_loras": str(most.max_cpu_loras), "eviction": eviction}
        facts |= {"weights": "dummy"} if dummy is not None else {}
        return live(settings, replace(options, url=url, api_key=""), facts, failures)


def _none_servable(failures: Failures) -> LoraCliError:
    """What is wrong with the first of the adapters, and how many more there are."""
    (name, error), *more = failures.items()
    hint = "; ".join(filter(None, (error.hint, f"and {len(more)} more cannot either" if more else "")))
    code = max(one.exit_code for one in failures.values())
    return ERRORS[code](f"{name} cannot be served: {error.message}", hint=hint)


def chosen(options: BenchOptions) -> tuple[Device, PolicyName]:
    """What ``--device`` and ``--eviction`` say of one process. Raises ``UsageError``."""
    device, eviction, known = options.device or "auto", options.eviction or "adaptive", get_args(PolicyName)
    if device not in get_args(Device):
        raise UsageError(f"--device is auto, cpu or cuda, not {safe(device)}")
    if eviction not in known:
        several = "," in eviction or eviction == "opt"
        raise UsageError(
            f"--eviction {safe(eviction)}: a warm process supports {', '.join(known)}",
            hint="--simulate compares several, and opt" if several else did_you_mean(eviction, known),
        )
    return cast(Device, device), cast(PolicyName, eviction)


@contextmanager
def measured_lineup(settings: Settings, options: BenchOptions, workload: Workload) -> Iterator[tuple[Lineup, Settings]]:
    """The adapters that are named, or synthetic ones, and the settings that hold for them.

    Synthetic ones have a cache of their own, and all of it is gone when the block ends.

    Raises:
        LoraCliError: they are not named as they must be, or there is no room for those that are made.
    """
    if options.num_adapters is None:
        options.refuse(("ranks",), "for --num-adapters and --simulate", "named adapters have their own ranks")
        if options.manifest is None and not options.refs:
            hint = "add adapters, or an adapter set with -f; --url measures a running server, --simulate the tiers"
            raise UsageError("there is nothing to measure", hint=hint)
        asked = lineup(options.manifest, options.refs or [], options.base, "measure")
        reached = reaching(settings, asked.manifest, options.policy)
        yield with_base(asked, "serve-bench", reached), reached
        return
    names = adapter_names(workload.names, options.num_adapters)
    for flag in options.given(("refs", "manifest", "policy")):
        raise UsageError(f"{flag} and --num-adapters cannot be used together", hint="remove one of them")
    if not options.base:
        raise UsageError("serve-bench needs a base model", hint="--base DIRECTORY, config.json or ORG/NAME")
    base = base_model(options.base, settings)
    by_name = parse_ranks(options.ranks or RANKS).of(names, options.seed)
    with tempfile.TemporaryDirectory(prefix="lora-cli-bench-") as temporary:
        folder = Path(temporary)
        needed, free = COPIES * total_bytes(base, by_name), shutil.disk_usage(folder).free
        if needed > free:
            raise MachineError(
                f"{len(names)} adapters need {size(needed)} in {folder.parent}, which has {size(free)} free",
                hint="use fewer --num-adapters, smaller --ranks, or a TMPDIR on a larger disk",
            )
        for number, name in enumerate(names):
            write_synthetic(folder / str(number), base, by_name[name], name, options.seed)
        items = tuple(Item(name, str(folder / str(number))) for number, name in enumerate(names))
        yield Lineup(items, options.base), replace(settings, cache_dir=folder / "cache")


def servable(
    asked: Lineup, base: BaseModel, most: Limits, settings: Settings, hold: InUseMarker, failures: Failures
) -> dict[str, Job]:
    """The adapters that can be served, by name, held in the cache; the others are noted in ``failures``."""
    admit = admitting(Terms(base, max_lora_rank=most.max_lora_rank or None), settings, hold)
    found: dict[str, Job] = {}
    for item in asked.items:
        try:
            admission = admit(item)
            _, job = reported(item, admission)
            if job is None:
                assert admission.refusal is not None
                raise admission.refusal
            scalings(job.adapter, base)
            found[job.name] = job
        except LoraCliError as error:
            failures[item.name] = error
    return found


def _measure(
    asked: Lineup, run: Run, trace: Trace, seed: int, settings: Settings, failures: Failures
) -> tuple[MeasurementReport, Mapping[str, str]]:
    """Admit the adapters, start the warm process, and send the trace through it; what is used is kept until then.

    Gives what was measured, and on what device.
    """
    base, most = base_model(asked.base, settings), run.limits
    with InUseMarker(Store(settings.cache_dir)) as hold:
        jobs = servable(asked, base, most, settings, hold, failures)
        broken = {name: one.message for name, one in failures.items()}
        slots, places = most.max_loras, most.max_cpu_loras
        replay = partial(run_trace, trace.keys(), max_loras=slots, max_cpu_loras=places, failed=broken)
        if not jobs:
            return replay(serve=lambda _name: Served("", 0.0)), {}  # none is asked: all are broken
        needs = [needs_of(job.adapter, base) for job in jobs.values()]
        plan = lay_out(replace(planned(asked, run, base, settings), seed=seed, base_directory=None), needs)
        with WarmProcess(plan) as process:
            ready = process.start()
            serve = partial(_serve, process, jobs, failures)
            found = replay(serve=serve, progress=counter(len(trace), settings))
            return found, {"device": ready.device, "dtype": ready.dtype}


def _serve(process: WarmProcess, jobs: Mapping[str, Job], failures: Failures, name: str) -> Served:
    """What a trace is run against: the adapter into its slot, and a small batch through it."""
    job = jobs[name]
    try:
        served = process.serve(job)
    except LoraCliError as error:
        # The tiers know an adapter by its digest; people know it by its name.
        error.message = error.message.replace(job.key, name)
        failures[name] = error
        raise
    evicted = {str(tier): count for tier, count in served.evicted.items()}
    return Served(served.tier, served.load_ms + served.forward_ms, evicted)


@contextmanager
def own_server(asked: Lineup, run: Run, settings: Settings) -> Iterator[str]:
    """The address of a server of these adapters, which is ready; it ends with the block.

    Raises:
        LoraCliError: what keeps it from serving.
    """
    with tempfile.TemporaryDirectory(prefix="lora-cli-serve-", ignore_cleanup_errors=True) as temporary:
        folder = Path(temporary)
        serve = Serve(Address(uds=folder / "socket"), "", (), LOAD_TIMEOUT, folder / "ready", None)
        child = ChildProcess(SERVER, (asked, run, serve, replace(settings, quiet=not settings.verbose)))
        try:
            while not (folder / "ready").exists():
                if child.stands.future.done():
                    with suppress(Died):
                        child.stands.answer(object)
                    raise MachineError("the server exited before it was ready", hint="--verbose shows its progress")
                time.sleep(STARTED_S)
            yield str(serve.address)
        finally:
            child.close()


def main(descriptor: int) -> None:
    """The server's life: it serves until the client closes the connection, and reports errors."""
    os.setsid()  # Ctrl-C is for our parent, and the server answers until that has told what there is
    connection: Connection[Any, Any] = Connection(descriptor)
    number, served = connection.recv()
    threading.Thread(target=_end_with, args=(connection,), daemon=True).start()
    try:
        warm_serve(*served)
        connection.send((number, None))
    except LoraCliError as error:
        connection.send((number, error))


def _end_with(connection: "Connection[Any, Any]") -> None:
    """Ends this process, in order, when its parent hangs up."""
    with suppress(EOFError, OSError):
        connection.recv()
    os.kill(os.getpid(), signal.SIGTERM)
