"""``serve-bench`` of a server that is started.

The server is ``warm --serve --forward model`` in a child process, measured as any other one. It listens at a private
Unix socket, and ends with this process.
"""

import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, cast, get_args

from lora_cli.base.base_model import BaseModel
from lora_cli.base.reading import local_config, read_config
from lora_cli.bench.live.result import live_metric_names
from lora_cli.bench.simulator import parse_ranks
from lora_cli.bench.synthetic_adapters import total_bytes, write_synthetic
from lora_cli.cli.adapter_selection import Inputs, apply_policies, base_model, infer_base, read_inputs, slot_limits
from lora_cli.cli.bench_live import measure_server
from lora_cli.cli.bench_options import RANKS, BenchOptions, Workload, adapter_names, parse_workload
from lora_cli.cli.bench_results import Failures, report_writer
from lora_cli.cli.warm_plan import WarmRun, admission_function, has_base_weights, require_packages
from lora_cli.cli.warm_serve import ServerOptions, warm_serve
from lora_cli.endpoint.address import Address
from lora_cli.errors import ERRORS, LoraCliError, MachineError, NotFound, UsageError
from lora_cli.fetching.pipeline import open_files
from lora_cli.finding import Deployment
from lora_cli.judging.judge import Terms
from lora_cli.parse import json_object
from lora_cli.refs.adapter_files import BASE_CONFIG
from lora_cli.refs.lock import LockedAdapter
from lora_cli.refs.reference import AdapterRef, ref_of
from lora_cli.refs.request import BASE, Request
from lora_cli.runtime.child_process import ChildProcess, ProcessDied, Program
from lora_cli.runtime.composable import scalings
from lora_cli.runtime.load_jobs import report_of_admission
from lora_cli.runtime.messages import LoraRequest
from lora_cli.runtime.plan import Device, TierLimits
from lora_cli.settings import Settings
from lora_cli.sources.registry import Sources
from lora_cli.store import Store
from lora_cli.store.locks import InUse
from lora_cli.text import did_you_mean, safe, size
from lora_cli.tiers.eviction import PolicyName

COPIES_PER_ADAPTER = 2
"""Copies of a synthetic adapter on the disk: its folder, and its blobs in the cache."""

READY_POLL_S = 0.02
SERVER = Program(module="lora_cli.cli.bench_warm", title="the server", stop_deadline_s=15.0, inherit_stderr=True)
LOAD_TIMEOUT = "10m"


def measure_own_server(settings: Settings, options: BenchOptions) -> int:
    """Starts a server, measures it, and returns the exit code. A base without weights gets random ones.

    Raises:
        LoraCliError: an option is invalid, or the server cannot serve.
    """
    require_packages("serve-bench of its own server", "models", "torch", "transformers")
    options.refuse(("lora_modules",), "for --url", "set the adapters with REFs or a manifest")
    report_writer(options, live_metric_names())
    device, eviction = device_and_eviction(options)
    with ExitStack() as stack:
        inputs, own = stack.enter_context(benchmark_adapters(settings, options, parse_workload(options)))
        rank = options.max_lora_rank
        if rank is None and options.num_adapters is not None:
            # The server does not know the ranks of synthetic adapters before they are loaded.
            rank = max(rank for rank, _ in parse_ranks(options.ranks or RANKS).shares)
        most = slot_limits(inputs, options.max_loras, options.max_cpu_loras, rank)
        # A base without weights on this disk gets random ones: latencies do not depend on their values.
        dummy = None if has_base_weights(inputs.base) else _config(inputs.base, settings, inputs.locked_base)
        failures: Failures = {}
        hold = stack.enter_context(InUse(Store(own.cache_dir)))
        jobs = admit_adapters(inputs, base_model(inputs.base, own, inputs.locked_base), most, own, hold, failures)
        if not jobs:
            raise _no_adapter_error(failures)
        inputs = replace(inputs, items=tuple(item for item in inputs.items if item.name in jobs))
        url = stack.enter_context(started_server(inputs, WarmRun(most, device, "model", eviction, dummy=dummy), own))
        facts = {"max_loras": str(most.max_loras), "max_cpu_loras": str(most.max_cpu_loras), "eviction": eviction}
        facts |= {"weights": "dummy"} if dummy is not None else {}
        return measure_server(settings, replace(options, url=url, api_key=""), facts, failures)


def _no_adapter_error(failures: Failures) -> LoraCliError:
    """The error of the first adapter, with the number of the others."""
    (name, error), *more = failures.items()
    hint = "; ".join(filter(None, (error.hint, f"{len(more)} more cannot be served either" if more else "")))
    code = max(one.exit_code for one in failures.values())
    return ERRORS[code](f"{name} cannot be served: {error.message}", hint=hint)


def device_and_eviction(options: BenchOptions) -> tuple[Device, PolicyName]:
    """The values of ``--device`` and ``--eviction`` for one process. Raises ``UsageError``."""
    device, eviction, known = options.device or "auto", options.eviction or "lru", get_args(PolicyName)
    if device not in get_args(Device):
        raise UsageError(f"--device must be auto, cpu or cuda, not {safe(device)}")
    if eviction not in known:
        several = "," in eviction or eviction == "opt"
        raise UsageError(
            f"--eviction {safe(eviction)}: a warm process supports {', '.join(known)}",
            hint="--simulate compares several, and opt" if several else did_you_mean(eviction, known),
        )
    return cast(Device, device), cast(PolicyName, eviction)


@contextmanager
def benchmark_adapters(
    settings: Settings, options: BenchOptions, workload: Workload
) -> Iterator[tuple[Inputs, Settings]]:
    """The named or synthetic adapters, and the settings for them.

    Synthetic adapters have a temporary cache, which is removed when the block ends.

    Raises:
        LoraCliError: an option is invalid, or the disk is too full for the synthetic adapters.
    """
    if options.num_adapters is None:
        options.refuse(("ranks",), "for --num-adapters", "named adapters have their own ranks")
        if options.manifest is None and not options.refs:
            hint = "add adapters, or an adapter set with -f; --url measures a running server, --simulate the tiers"
            raise UsageError("there is nothing to measure", hint=hint)
        inputs = read_inputs(options.manifest, options.refs or [], options.base, "measure")
        reached = apply_policies(settings, inputs.manifest, options.policy)
        yield infer_base(inputs, "serve-bench", reached), reached
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
        needed, free = COPIES_PER_ADAPTER * total_bytes(base, by_name), shutil.disk_usage(folder).free
        if needed > free:
            raise MachineError(
                f"{len(names)} adapters need {size(needed)} in {folder.parent}, which has {size(free)} free",
                hint="use fewer --num-adapters, smaller --ranks, or a TMPDIR on a larger disk",
            )
        for number, name in enumerate(names):
            write_synthetic(folder / str(number), base, by_name[name], name, options.seed)
        items = tuple(Request(name, str(folder / str(number))) for number, name in enumerate(names))
        yield Inputs(items, options.base), replace(settings, cache_dir=folder / "cache")


def admit_adapters(
    inputs: Inputs, base: BaseModel, most: TierLimits, settings: Settings, hold: InUse, failures: Failures
) -> dict[str, LoraRequest]:
    """The adapters that can be served, by name; ``hold`` keeps them in the cache. Errors go into ``failures``."""
    terms = Terms(base, deployment=Deployment(max_lora_rank=most.max_lora_rank or None))
    admit = admission_function(terms, settings, hold)
    found: dict[str, LoraRequest] = {}
    for item in inputs.items:
        try:
            admission = admit(item)
            _, job = report_of_admission(item, admission)
            if job is None:
                assert admission.refusal is not None
                raise admission.refusal
            scalings(job.adapter, base)
            found[job.name] = job
        except LoraCliError as error:
            failures[item.name] = error
    return found


@contextmanager
def started_server(inputs: Inputs, run: WarmRun, settings: Settings) -> Iterator[str]:
    """Starts a server of these adapters, waits until it is ready, and gives its address; stops it after the block.

    Raises:
        LoraCliError: the server cannot serve.
    """
    with tempfile.TemporaryDirectory(prefix="lora-cli-serve-", ignore_cleanup_errors=True) as temporary:
        folder = Path(temporary)
        serve = ServerOptions(Address(uds=folder / "socket"), "", (), LOAD_TIMEOUT, folder / "ready", None)
        child = ChildProcess(SERVER, (inputs, run, serve, replace(settings, quiet=not settings.verbose)))
        try:
            while not (folder / "ready").exists():
                if child.started.future.done():
                    with suppress(ProcessDied):
                        child.started.answer(object)
                    raise MachineError("the server exited before it was ready", hint="--verbose shows its progress")
                time.sleep(READY_POLL_S)
            yield str(serve.address)
        finally:
            child.close()


def main(descriptor: int) -> None:
    """The server process: it serves until the parent closes the connection, and reports errors."""
    os.setsid()  # Ctrl-C goes to the parent, which still needs the server for its report
    connection: Connection[Any, Any] = Connection(descriptor)
    number, served = connection.recv()
    threading.Thread(target=_exit_with_parent, args=(connection,), daemon=True).start()
    try:
        warm_serve(*served)
        connection.send((number, None))
    except LoraCliError as error:
        connection.send((number, error))


def _exit_with_parent(connection: "Connection[Any, Any]") -> None:
    """Shuts this process down when the parent closes the connection."""
    with suppress(EOFError, OSError):
        connection.recv()
    os.kill(os.getpid(), signal.SIGTERM)


def _config(base: str | AdapterRef, settings: Settings, locked: LockedAdapter | None) -> dict[str, Any]:
    """The ``config.json`` of a base, as JSON; that of the lock if it is ``locked``.

    Raises:
        NotFound: there is none, as next to a single checkpoint file.
        LoraCliError: it cannot be read.
    """
    ref = ref_of(base)
    if locked is not None:
        return json_object(locked.config.encode(), BASE_CONFIG)
    if ref.scheme == "file" and Path(ref.location).is_file():
        data = local_config(Path(ref.location))
        config = None if data is None else json_object(data, ref.location)
    else:
        config = read_config(open_files(Request("", ref, selection=BASE), settings, Sources(settings)))
    if config is None:
        raise NotFound(f"{base} has no config.json to build a model from", hint="--forward modules")
    return config
