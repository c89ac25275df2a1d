"""``lora-cli warm --endpoint``: loads a manifest's adapters into running engines, and tests each one on each.

With ``--watch`` again and again: when the manifest changes, and when a server lost what it had.
"""

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path

from lora_cli.cli.adapter_selection import Lineup, base_model
from lora_cli.cli.engine_options import deployment_of
from lora_cli.cli.options import seconds
from lora_cli.cli.output import Format, withdraw, write, write_result
from lora_cli.cli.warm_options import WarmOptions
from lora_cli.cli.warm_plan import admitting, say
from lora_cli.cli.warm_serve import uniquely_named
from lora_cli.core.adapter_request import Item
from lora_cli.daemon_threads import map_in_threads
from lora_cli.endpoint.address import parse_address
from lora_cli.endpoint.client import Endpoint
from lora_cli.endpoint.reconcile import Changes, Done, Replica, Wanted, reconcile, wait_ready
from lora_cli.endpoint.servers import Server, open_server
from lora_cli.engines import ENGINES, Profile, choose_engine
from lora_cli.errors import LoraCliError, UsageError
from lora_cli.render.terminal_warm import endpoint_parts
from lora_cli.render.warm_report import EndpointsReport
from lora_cli.serving.signals import ending_signals
from lora_cli.settings import Settings
from lora_cli.store import Store
from lora_cli.store.in_use import InUseMarker
from lora_cli.validation import Terms
from lora_cli.validation.fetch_and_validate import Admission

AT_ONCE = 8
"""Adapters that are fetched and validated at once."""

LOAD_TIMEOUT_S = 600.0
LOOK_S = 1.0
"""How often the manifest and its lock are looked at."""

AGAIN_S = 30.0
"""How often the servers are asked what they serve, even if nothing changed here: one may have been restarted."""


def warm_engines(options: WarmOptions, engine: str, named: Callable[[], tuple[Lineup, Settings]]) -> int:
    """Warm running engines with what is ``named``, once or, with ``--watch``, until it is stopped.

    ``engine`` is NAME or NAME@VERSION. Gives the exit code.
    """
    if options.watch and options.manifest is not None:
        return _watch(options.manifest, named, options, engine)
    asked, settings = named()
    report = warm_endpoints(asked, options, engine, settings)
    _tell_ready(options.ready_file, report, None)
    return _tell(report, options.output_format, settings)


def _tell_ready(file: Path | None, report: EndpointsReport, pid: int | None) -> None:
    """Have the ready file there where every adapter was tried on every server, and only there.

    One that fails holds nobody up: clients of it are told by the server. Raises ``MachineError``.
    """
    if not report.reached:
        withdraw(file, "--ready-file")
    elif file is not None:
        served = sum(one.error is None for one in report.done)
        write(json.dumps({"pid": pid, "served": served}) + "\n", file)


def _tell(report: EndpointsReport, output_format: Format, settings: Settings) -> int:
    """Write the result; gives its exit code."""
    write_result(report, output_format, endpoint_parts(report, quiet=settings.quiet))
    return report.exit_code


def _tell_down(file: Path | None, settings: Settings, note: str) -> None:
    """Say that a server is not ready, and have no ready file. Raises ``MachineError``."""
    withdraw(file, "--ready-file")
    say(note, settings)


def _watch(file: Path, named: Callable[[], tuple[Lineup, Settings]], options: WarmOptions, engine: str) -> int:
    """Until SIGTERM, SIGHUP or Ctrl-C: warm, report when something was done or failed, and look again.

    Raises:
        UsageError: the first reading of the manifest fails.
        MachineError: the ready file cannot be written or removed.
    """
    ended = threading.Event()
    for number in ending_signals():
        signal.signal(number, lambda *_: ended.set())
    told: object = None
    settings: Settings | None = None
    while not ended.is_set():
        seen = _stamp(file)
        try:
            asked, settings = named()
            report = warm_endpoints(asked, options, engine, settings, ended.is_set)
        except LoraCliError as error:
            if settings is None:
                raise
            say(f"error: {error.message}; the served adapters are unchanged", settings)
        else:
            _tell_ready(options.ready_file, report, os.getpid())
            now = _gist(report)
            if now != told:
                _tell(report, options.output_format, settings)
            # What was loaded is kept the next time, which is no news.
            told = _gist(report, afterwards=True)
        until = time.monotonic() + AGAIN_S
        while not ended.wait(LOOK_S) and time.monotonic() < until and _stamp(file) == seen:
            pass
    withdraw(options.ready_file, "--ready-file")
    return 0


def _gist(report: EndpointsReport, *, afterwards: bool = False) -> object:
    """What of a result is news."""
    later = {"loaded": "kept", "replaced": "kept", "pruned": ""} if afterwards else {}
    rows = [
        (replica.address, one.name, later.get(one.action, one.action), one.error and one.error.message)
        for replica in report.servers
        for one in replica.adapters
        if later.get(one.action, one.action)
    ]
    rows += [(replica.address, "", "", replica.error and replica.error.message) for replica in report.servers]
    return rows, [(one.name, one.error and one.error.message) for one in report.refused]


def _stamp(file: Path) -> object:
    """What distinguishes one version of the manifest and its lock from another."""
    from lora_cli.reading.manifest import lock_path

    stamps: list[tuple[object, ...]] = []
    for path in (file, lock_path(file)):
        with suppress(OSError):
            found = path.stat()
            stamps.append((path, found.st_mtime_ns, found.st_size, found.st_ino))
    return stamps


def warm_endpoints(
    asked: Lineup, options: WarmOptions, engine: str, settings: Settings, is_over: Callable[[], bool] = lambda: False
) -> EndpointsReport:
    """Wait for the servers, validate every adapter for their version, and have each server serve those that pass.

    Once ``is_over`` is true, no server is waited for any more.

    Raises:
        UsageError: an invalid address, engine or path.
    """
    kind = engine.partition("@")[0]
    mapped, patience_s = _mapping(options.engine_path or ()), seconds(options.wait, "--wait")
    items = uniquely_named(asked.items)
    with ExitStack() as stack, InUseMarker(Store(settings.cache_dir)) as hold:
        addresses = dict.fromkeys(map(parse_address, options.endpoint or ()))
        endpoints = [stack.enter_context(Endpoint(one, options.api_key.strip(), LOAD_TIMEOUT_S)) for one in addresses]
        servers = [open_server(kind, one) for one in endpoints]

        def wait(server: Server) -> LoraCliError | None:
            return wait_ready(server, patience_s, is_over, partial(_tell_down, options.ready_file, settings))

        waited = dict(zip(servers, map_in_threads(wait, servers, len(servers)), strict=True))
        ready = [server for server, error in waited.items() if error is None]
        versions = {server: server.version() for server in ready}
        profiles = _profiles(engine, kind, versions.values())
        rank = options.max_lora_rank or (asked.engine.max_lora_rank if asked.engine is not None else None)
        deployment = deployment_of(profiles, asked, tp=options.tp, max_lora_rank=rank)
        base = base_model(asked.base, settings)
        terms = Terms(base, max_lora_rank=rank, engines=profiles, deployment=deployment)
        admit = admitting(terms, settings, hold)
        wanted, refused = _admitted(items, map_in_threads(admit, items, AT_ONCE) if ready else (), mapped)
        changes = Changes(options.prune, options.prove, options.allow_unload)
        serve = partial(reconcile, wanted=wanted, changes=changes)
        done = dict(zip(ready, map_in_threads(serve, ready, len(ready)), strict=True))
    replicas = []
    for server in servers:
        told, error = done.get(server, ([], waited[server]))
        left = {one.action for one in told} & {"replaced", "pruned"}
        replicas.append(
            Replica(
                address=str(server.endpoint.address),
                kind=kind,
                version=versions.get(server, ""),
                error=error,
                adapters=tuple(told),
                note=server.leftover if left else "",
            )
        )
    return EndpointsReport(servers=replicas, refused=refused)


def kind_of(engine: str, asked: Lineup) -> str:
    """What runs at the endpoints: ``--engine``, else the manifest's; the servers report their versions.

    Raises:
        UsageError: neither says it.
    """
    if engine:
        return engine
    if asked.engine is None:
        raise UsageError("--endpoint needs the engine that runs there", hint="--engine vllm, sglang or lora-cli")
    return asked.engine.name


def _profiles(engine: str, kind: str, versions: Iterable[str]) -> tuple[Profile, ...]:
    """The engine's profiles for the version that was named, else for those that the servers report."""
    if kind not in ENGINES:
        return ()
    if "@" in engine:
        return (choose_engine(engine),)
    told = [f"{kind}@{version}" for version in dict.fromkeys(versions) if version]
    return tuple(choose_engine(one) for one in told) or (choose_engine(kind),)


def _admitted(
    items: Sequence[Item], admissions: Iterable[Admission], mapped: Callable[[Path], str]
) -> tuple[list[Wanted], list[Done]]:
    """What the servers are to serve, and what none of them is asked for."""
    wanted: list[Wanted] = []
    refused: list[Done] = []
    for item, admission in zip(items, admissions, strict=False):
        if admission.refusal is not None:
            refused.append(Done(item.name, "failed", sum(admission.stage_ms.values()), None, admission.refusal))
        else:
            assert admission.snapshot is not None
            snapshot = admission.snapshot
            wanted.append(Wanted(item.name, snapshot.digest, mapped(snapshot.directory)))
    return wanted, refused


def _mapping(paths: Sequence[str]) -> Callable[[Path], str]:
    """What maps our paths to those that the servers see: the longest FROM that fits.

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
