"""``lora-cli warm --endpoint``: loads adapters into running engines, and tests each one on each engine.

``--watch`` repeats this when the manifest changes, and when a server was restarted.
"""

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from lora_cli.cli.adapter_selection import Inputs, base_model, deployment_of
from lora_cli.cli.output import Format, inform, remove_ready_file, write, write_result
from lora_cli.cli.warm_process import uniquely_named
from lora_cli.endpoint.address import parse_address
from lora_cli.endpoint.client import Endpoint
from lora_cli.endpoint.reconcile import AdapterOutcome, DesiredAdapter, ReconcileOptions, Replica, reconcile, wait_ready
from lora_cli.endpoint.servers import Server, open_server
from lora_cli.engines import ENGINES, choose_engine
from lora_cli.errors import LoraCliError, UsageError
from lora_cli.fetching.batch import FetchContext
from lora_cli.judging.judge import Terms, fetch_one, judge_fetched
from lora_cli.parallel import map_in_threads
from lora_cli.render.terminal_warm import endpoint_parts
from lora_cli.render.warm_report import EndpointsReport
from lora_cli.settings import Settings
from lora_cli.store import Store
from lora_cli.store.locks import InUse
from lora_cli.warm.supervisor import ending_signals

PARALLEL_ADMISSIONS = 8
"""Adapters that are fetched and validated in parallel."""

WAIT_S, LOAD_TIMEOUT_S = 600.0, 600.0
"""How long to wait until an engine is ready, and for one answer of it."""

POLL_S, RECONCILE_EVERY_S = 1.0, 30.0
"""How often ``--watch`` checks the manifest and its lock, and the servers: one may have been restarted."""

LoadInputs = Callable[[], tuple[Inputs, Settings]]


@dataclass(frozen=True, slots=True)
class EndpointOptions:
    """The options of ``--endpoint``; ``engine`` is NAME or NAME@VERSION."""

    endpoints: Sequence[str]
    engine: str
    engine_path: Sequence[str]
    prune: bool
    allow_unload: bool
    prove: bool
    token: str
    max_lora_rank: int | None = None
    ready_file: Path | None = None
    output_format: Format = "human"


def warm_engines(options: EndpointOptions, load_inputs: LoadInputs, watched: Path | None) -> int:
    """Warms running engines with the adapters of ``load_inputs``, once, or while the manifest is ``watched``.

    Returns the exit code.
    """
    if watched is not None:
        return _watch(watched, load_inputs, options)
    inputs, settings = load_inputs()
    report = warm_endpoints(inputs, options, settings)
    _update_ready_file(options.ready_file, report, None)
    write_result(report, options.output_format, endpoint_parts(report, quiet=settings.quiet))
    return report.exit_code


def _update_ready_file(file: Path | None, report: EndpointsReport, pid: int | None) -> None:
    """Writes the ready file if every adapter was tried on every server, else removes it.

    An adapter that fails does not matter: the server reports it to its clients. Raises ``MachineError``.
    """
    if not report.reached:
        remove_ready_file(file)
    elif file is not None:
        served = sum(one.error is None for one in report.done)
        write(json.dumps({"pid": pid, "served": served}) + "\n", file)


def _watch(file: Path, load_inputs: LoadInputs, options: EndpointOptions) -> int:
    """Warms, reports changes and failures, and repeats that, until SIGTERM, SIGHUP or Ctrl-C.

    Raises:
        UsageError: the first reading of the manifest fails.
        MachineError: the ready file cannot be written or removed.
    """
    ended = threading.Event()
    for number in ending_signals():
        signal.signal(number, lambda *_: ended.set())
    reported: object = None
    inputs, settings = load_inputs()
    while not ended.is_set():
        seen = _file_versions(file)
        try:
            inputs, settings = load_inputs()
        except LoraCliError as error:
            inform(f"error: {error.message}; the last valid version is still used", settings)
        try:
            report = warm_endpoints(inputs, options, settings, ended.is_set)
        except LoraCliError as error:
            inform(f"error: {error.message}; the served adapters are unchanged", settings)
        else:
            _update_ready_file(options.ready_file, report, os.getpid())
            if _outcomes(report) != reported:
                write_result(report, options.output_format, endpoint_parts(report, quiet=settings.quiet))
            # The next run keeps what this one loaded: that is not reported.
            reported = _outcomes(report, afterwards=True)
        until = time.monotonic() + RECONCILE_EVERY_S
        while not ended.wait(POLL_S) and time.monotonic() < until and _file_versions(file) == seen:
            pass
    remove_ready_file(options.ready_file)
    return 0


def _outcomes(report: EndpointsReport, *, afterwards: bool = False) -> object:
    """The outcomes in a result, to be compared with the next result."""
    later = {"loaded": "kept", "replaced": "kept", "pruned": ""} if afterwards else {}
    rows = [
        (replica.address, one.name, later.get(one.action, one.action), one.error and one.error.message)
        for replica in report.servers
        for one in replica.adapters
        if later.get(one.action, one.action)
    ]
    rows += [(replica.address, "", "", replica.error and replica.error.message) for replica in report.servers]
    return rows, [(one.name, one.error and one.error.message) for one in report.refused]


def _file_versions(file: Path) -> object:
    """The stat values of the manifest and its lock, which change with their content."""
    from lora_cli.documents.lockfile import lock_path

    stamps: list[tuple[object, ...]] = []
    for path in (file, lock_path(file)):
        with suppress(OSError):
            found = path.stat()
            stamps.append((path, found.st_mtime_ns, found.st_size, found.st_ino))
    return stamps


def warm_endpoints(
    inputs: Inputs, options: EndpointOptions, settings: Settings, is_over: Callable[[], bool] = lambda: False
) -> EndpointsReport:
    """Waits for the servers, validates the adapters for their versions, and loads the valid ones into each server.

    The wait ends when ``is_over`` is true.

    Raises:
        UsageError: an invalid address, engine or path.
    """
    kind, _, version = options.engine.partition("@")
    mapped = _path_mapping(options.engine_path)
    items = uniquely_named(inputs.items)
    addresses = dict.fromkeys(map(parse_address, options.endpoints))
    servers = [open_server(kind, Endpoint(one, options.token, LOAD_TIMEOUT_S)) for one in addresses]
    store = Store(settings.cache_dir)

    def on_wait(note: str) -> None:
        remove_ready_file(options.ready_file)
        inform(note, settings)

    def wait(server: Server) -> LoraCliError | None:
        return wait_ready(server, WAIT_S, is_over, on_wait)

    with InUse(store) as hold:
        waited = dict(zip(servers, map_in_threads(wait, servers, len(servers)), strict=True))
        ready = [server for server, error in waited.items() if error is None]
        versions = {server: server.version() for server in ready}
        named = [f"{kind}@{one}" for one in dict.fromkeys(versions.values()) if one and not version]
        profiles = tuple(map(choose_engine, named or [options.engine])) if kind in ENGINES else ()
        deployment = deployment_of(profiles, inputs, options.max_lora_rank or inputs.max_lora_rank)
        base = base_model(inputs.base, settings, inputs.locked_base)
        terms, run = Terms(base, engines=profiles, deployment=deployment), FetchContext(store, settings, in_use=hold)
        results = map_in_threads(
            lambda item: judge_fetched(fetch_one(item, run), terms, settings),
            items if ready else (),
            PARALLEL_ADMISSIONS,
        )
        wanted, refused = list[DesiredAdapter](), list[AdapterOutcome]()
        for item, result in zip(items, results, strict=False):
            if result.refusal is not None:
                took_ms = sum(result.stage_ms.values())
                refused.append(AdapterOutcome(item.name, "failed", took_ms, None, result.refusal))
            else:
                assert result.snapshot is not None
                path = mapped(result.snapshot.directory)
                wanted.append(DesiredAdapter(item.name, result.snapshot.digest, path, item.pinned))
        # With --prune, what neither the manifest nor a REF names goes.
        kept = frozenset(one.name for one in (inputs.manifest.adapters if inputs.manifest is not None else items))
        changes = ReconcileOptions(
            prune=kept if options.prune else None,
            prove=options.prove,
            unload=options.allow_unload,
            refused=frozenset(one.name for one in refused),
        )
        serve = partial(reconcile, wanted=wanted, options=changes)
        done = dict(zip(ready, map_in_threads(serve, ready, len(ready)), strict=True))
    pinned = any(one.pinned for one in wanted)
    replicas = []
    for server in servers:
        adapters, error = done.get(server, ([], waited[server]))
        at, note = str(server.endpoint.address), server.note({one.action for one in adapters}, pinned=pinned)
        replicas.append(Replica(at, kind, versions.get(server, ""), error, tuple(adapters), note))
    return EndpointsReport(servers=replicas, refused=refused)


def _path_mapping(paths: Sequence[str]) -> Callable[[Path], str]:
    """A function that maps local paths to those of the servers, by the longest FROM that matches.

    Raises:
        UsageError: one is not FROM=TO.
    """
    pairs: dict[Path, str] = {}
    for text in paths:
        ours, at, theirs = text.partition("=")
        if not at or not ours or not theirs.startswith("/"):
            raise UsageError(f"--engine-path {text} is not FROM=TO", hint="--engine-path ~/.cache/lora-cli=/adapters")
        pairs.setdefault(Path(ours).expanduser().absolute(), theirs.rstrip("/"))

    def mapped(path: Path) -> str:
        for ours in (path, *path.parents):
            if ours in pairs:
                return f"{pairs[ours]}/{path.relative_to(ours).as_posix()}".rstrip("/")
        return str(path)

    return mapped
