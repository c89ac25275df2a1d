"""``lora-cli warm --endpoint``: loads a manifest's adapters into running engines, and tests each one on each engine.

``--watch`` repeats this when the manifest changes, and when a server was restarted.
"""

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from lora_cli.cli.adapter_selection import Inputs, base_model, deployment_of
from lora_cli.cli.options import parse_duration_option
from lora_cli.cli.output import Format, inform, remove_ready_file, write, write_result
from lora_cli.cli.warm_options import WarmOptions
from lora_cli.cli.warm_plan import admission_function
from lora_cli.cli.warm_serve import uniquely_named
from lora_cli.endpoint.address import parse_address
from lora_cli.endpoint.client import Endpoint
from lora_cli.endpoint.reconcile import AdapterOutcome, DesiredAdapter, ReconcileOptions, Replica, reconcile, wait_ready
from lora_cli.endpoint.servers import Server, open_server
from lora_cli.engines import ENGINES, Profile, choose_engine
from lora_cli.errors import LoraCliError, UsageError
from lora_cli.judging.base_model import check_tp
from lora_cli.judging.judge import Terms
from lora_cli.judging.result import Result
from lora_cli.parallel import map_in_threads
from lora_cli.refs.request import Request
from lora_cli.render.terminal_warm import endpoint_parts
from lora_cli.render.warm_report import EndpointsReport
from lora_cli.serving.signals import ending_signals
from lora_cli.settings import Settings
from lora_cli.store import Store
from lora_cli.store.locks import InUse

PARALLEL_ADMISSIONS = 8
"""Adapters that are fetched and validated in parallel."""

LOAD_TIMEOUT_S = 600.0
POLL_S = 1.0
"""Interval at which the manifest and its lock are checked for changes."""

RECONCILE_EVERY_S = 30.0
"""Interval at which the servers are reconciled without a change: one may have been restarted."""


def warm_engines(options: WarmOptions, engine: str, load_inputs: Callable[[], tuple[Inputs, Settings]]) -> int:
    """Warms running engines with the adapters of ``load_inputs``, once, or with ``--watch`` until it is stopped.

    ``engine`` is NAME or NAME@VERSION. Returns the exit code.
    """
    if options.watch and options.manifest is not None:
        return _watch(options.manifest, load_inputs, options, engine)
    inputs, settings = load_inputs()
    report = warm_endpoints(inputs, options, engine, settings)
    _update_ready_file(options.ready_file, report, None)
    return _write_result(report, options.output_format, settings)


def _update_ready_file(file: Path | None, report: EndpointsReport, pid: int | None) -> None:
    """Writes the ready file if every adapter was tried on every server, else removes it.

    An adapter that fails does not matter: the server reports it to its clients. Raises ``MachineError``.
    """
    if not report.reached:
        remove_ready_file(file)
    elif file is not None:
        served = sum(one.error is None for one in report.done)
        write(json.dumps({"pid": pid, "served": served}) + "\n", file)


def _write_result(report: EndpointsReport, output_format: Format, settings: Settings) -> int:
    """Writes the result, and returns its exit code."""
    write_result(report, output_format, endpoint_parts(report, quiet=settings.quiet))
    return report.exit_code


def _on_server_down(file: Path | None, settings: Settings, note: str) -> None:
    """Reports that a server is not ready, and removes the ready file. Raises ``MachineError``."""
    remove_ready_file(file)
    inform(note, settings)


def _watch(file: Path, load_inputs: Callable[[], tuple[Inputs, Settings]], options: WarmOptions, engine: str) -> int:
    """Warms, reports changes and failures, and repeats that, until SIGTERM, SIGHUP or Ctrl-C.

    Raises:
        UsageError: the first reading of the manifest fails.
        MachineError: the ready file cannot be written or removed.
    """
    ended = threading.Event()
    for number in ending_signals():
        signal.signal(number, lambda *_: ended.set())
    reported: object = None
    inputs: Inputs | None = None
    settings: Settings | None = None
    while not ended.is_set():
        seen = _file_versions(file)
        try:
            inputs, settings = load_inputs()
        except LoraCliError as error:
            if inputs is None or settings is None:
                raise
            inform(f"error: {error.message}; the last valid version is still used", settings)
        try:
            report = warm_endpoints(inputs, options, engine, settings, ended.is_set)
        except LoraCliError as error:
            inform(f"error: {error.message}; the served adapters are unchanged", settings)
        else:
            _update_ready_file(options.ready_file, report, os.getpid())
            now = _outcomes(report)
            if now != reported:
                _write_result(report, options.output_format, settings)
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
    inputs: Inputs, options: WarmOptions, engine: str, settings: Settings, is_over: Callable[[], bool] = lambda: False
) -> EndpointsReport:
    """Waits for the servers, validates the adapters for their versions, and loads the valid ones into each server.

    The wait ends when ``is_over`` is true.

    Raises:
        UsageError: an invalid address, engine or path.
    """
    kind = engine.partition("@")[0]
    mapped, patience_s = _path_mapping(options.engine_path or ()), parse_duration_option(options.wait, "--wait")
    items = uniquely_named(inputs.items)
    with InUse(Store(settings.cache_dir)) as hold:
        addresses = dict.fromkeys(map(parse_address, options.endpoint or ()))
        endpoints = (Endpoint(one, options.api_key.strip(), LOAD_TIMEOUT_S) for one in addresses)
        servers = [open_server(kind, one) for one in endpoints]

        def wait(server: Server) -> LoraCliError | None:
            return wait_ready(server, patience_s, is_over, partial(_on_server_down, options.ready_file, settings))

        waited = dict(zip(servers, map_in_threads(wait, servers, len(servers)), strict=True))
        ready = [server for server, error in waited.items() if error is None]
        versions = {server: server.version() for server in ready}
        profiles = _profiles(engine, kind, versions.values())
        rank = options.max_lora_rank or inputs.max_lora_rank
        deployment = deployment_of(profiles, inputs, rank)
        base = base_model(inputs.base, settings, inputs.locked_base)
        check_tp(base, options.tp)
        terms = Terms(base, engines=profiles, deployment=deployment)
        admit = admission_function(terms, settings, hold)
        admissions = map_in_threads(admit, items, PARALLEL_ADMISSIONS) if ready else []
        wanted, refused = _admitted(items, admissions, mapped)
        changes = _reconcile_options(inputs, items, refused, options)
        serve = partial(reconcile, wanted=wanted, options=changes)
        done = dict(zip(ready, map_in_threads(serve, ready, len(ready)), strict=True))
    pinned = any(one.pinned for one in wanted)
    replicas = []
    for server in servers:
        results, error = done.get(server, ([], waited[server]))
        replicas.append(
            Replica(
                address=str(server.endpoint.address),
                kind=kind,
                version=versions.get(server, ""),
                error=error,
                adapters=tuple(results),
                note=_note(server, results, pinned=pinned),
            )
        )
    return EndpointsReport(servers=replicas, refused=refused)


def _note(server: Server, results: Sequence[AdapterOutcome], *, pinned: bool) -> str:
    """What a server cannot do or say of these adapters."""
    actions = {one.action for one in results}
    notes = (
        server.leftover if actions & {"replaced", "pruned"} else "",
        server.cannot_pin if pinned else "",
    )
    return "; ".join(filter(None, notes))


def _reconcile_options(
    inputs: Inputs, items: Sequence[Request], refused: Sequence[AdapterOutcome], options: WarmOptions
) -> ReconcileOptions:
    """How servers may be changed: with --prune, what neither the manifest nor a REF names goes."""
    named = frozenset(one.name for one in (inputs.manifest.adapters if inputs.manifest is not None else items))
    return ReconcileOptions(
        prune=named if options.prune else None,
        prove=options.prove,
        unload=options.allow_unload,
        refused=frozenset(one.name for one in refused),
    )


def endpoint_engine(engine: str, inputs: Inputs) -> str:
    """The engine at the endpoints: ``--engine``, else the manifest's. The servers report their versions.

    Raises:
        UsageError: neither is given.
    """
    if engine:
        return engine
    if inputs.engine is None:
        raise UsageError("--endpoint needs the engine that runs there", hint="--engine vllm, sglang or lora-cli")
    return inputs.engine.name


def _profiles(engine: str, kind: str, versions: Iterable[str]) -> tuple[Profile, ...]:
    """The engine's profiles: for the version in ``engine``, else for those that the servers report."""
    if kind not in ENGINES:
        return ()
    if "@" in engine:
        return (choose_engine(engine),)
    reported = [f"{kind}@{version}" for version in dict.fromkeys(versions) if version]
    return tuple(choose_engine(one) for one in reported) or (choose_engine(kind),)


def _admitted(
    items: Sequence[Request],
    admissions: Iterable[Result],
    mapped: Callable[[Path], str],
) -> tuple[list[DesiredAdapter], list[AdapterOutcome]]:
    """The adapters to serve, and the refused ones, which no server loads."""
    wanted: list[DesiredAdapter] = []
    refused: list[AdapterOutcome] = []
    for item, admission in zip(items, admissions, strict=False):
        if admission.refusal is not None:
            refused.append(
                AdapterOutcome(item.name, "failed", sum(admission.stage_ms.values()), None, admission.refusal)
            )
        else:
            assert admission.snapshot is not None
            snapshot = admission.snapshot
            path = mapped(snapshot.directory)
            wanted.append(DesiredAdapter(item.name, snapshot.digest, path, item.pinned))
    return wanted, refused


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
