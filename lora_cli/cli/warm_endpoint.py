"""``lora-cli warm --endpoint``: loads adapters into running engines, and tests each one on each engine.

``--watch`` repeats this when the manifest changes, and when a server was restarted.
"""

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from lora_cli.cli.output import inform, log_failures, remove_ready_file, write, write_result
from lora_cli.documents.manifest import version_on_disk
from lora_cli.endpoint.address import parse_address
from lora_cli.endpoint.client import Endpoint
from lora_cli.endpoint.reconcile import ReconcileOptions, path_mapping, wait_ready, warm_servers
from lora_cli.endpoint.servers import Vllm, detect_kind, open_server
from lora_cli.engines import check_max_lora_rank, choose_engine
from lora_cli.errors import LoraCliError
from lora_cli.fetching.batch import FetchContext
from lora_cli.finding import Deployment
from lora_cli.inputs import Inputs, base_model
from lora_cli.judging.read import Terms
from lora_cli.reports.warm import EndpointsReport, human_endpoints
from lora_cli.settings import Settings
from lora_cli.store import InUse, Store
from lora_cli.warm.supervisor import ending_signals

WAIT_S, LOAD_TIMEOUT_S = 600.0, 600.0
"""How long to wait until an engine is ready, and for one answer of it."""

POLL_S, RECONCILE_EVERY_S = 1.0, 30.0
"""How often ``--watch`` checks the manifest and its lock, and the servers: one may have been restarted."""


def warm_engines(given: Mapping[str, Any], token: str, load_inputs: Callable[[], tuple[Inputs, Settings]]) -> int:
    """Warms running engines with the adapters of ``load_inputs``; returns the exit code.

    ``given`` are the command's parameters. With ``watch`` it reports changes and failures, and repeats that, until
    SIGTERM, SIGHUP or Ctrl-C.

    Raises:
        UsageError: an address, the engine or a path is wrong, or the first reading of the manifest fails.
        MachineError: the ready file cannot be written or removed.
    """
    watched, ready_file = given["manifest"] if given["watch"] else None, given["ready_file"]
    ended = threading.Event()
    reported: list[str] | None = None
    inputs, settings = load_inputs()

    def show(report: EndpointsReport) -> None:
        parts = human_endpoints(report, quiet=settings.quiet, verbose=settings.verbose)
        write_result(report, given["output_format"], parts)

    if watched is None:
        report = _warmed(given, token, inputs, settings, ended)
        _update_ready_file(ready_file, report, None)
        show(report)
        down = (("", one.error.message, "") for one in report.servers if one.error is not None)
        failed = ((one.name, one.error.message, "") for one in reversed(report.done) if one.error is not None)
        log_failures(dict.fromkeys([*down, *failed]))  # those that were refused first
        return report.exit_code
    for number in ending_signals():
        signal.signal(number, lambda *_: ended.set())
    while not ended.is_set():
        seen = version_on_disk(watched)
        try:
            inputs, settings = load_inputs()
        except LoraCliError as error:
            inform(f"error: {error.message}; the last valid version is still used", settings)
        try:
            report = _warmed(given, token, inputs, settings, ended)
        except LoraCliError as error:
            inform(f"error: {error.message}; the served adapters are unchanged", settings)
        else:
            _update_ready_file(ready_file, report, os.getpid())
            failures = [*(one.error for one in report.servers), *(one.error for one in report.done)]
            errors = [str(one) for one in failures if one is not None]
            if errors != reported or any(one.action in {"loaded", "replaced", "pruned"} for one in report.done):
                show(report)
            reported = errors
        until = time.monotonic() + RECONCILE_EVERY_S
        while not ended.wait(POLL_S) and time.monotonic() < until and version_on_disk(watched) == seen:
            pass
    remove_ready_file(ready_file)
    return 0


def _warmed(
    given: Mapping[str, Any], token: str, inputs: Inputs, settings: Settings, ended: threading.Event
) -> EndpointsReport:
    """What was done on the engines."""
    addresses = dict.fromkeys(map(parse_address, given["endpoint"]))
    endpoints = [Endpoint(one, token, LOAD_TIMEOUT_S) for one in addresses]

    def on_wait(note: str) -> None:
        remove_ready_file(given["ready_file"])
        inform(note, settings)

    wait = partial(wait_ready, patience_s=WAIT_S, is_over=ended.is_set, on_wait=on_wait)
    wanted = given["engine"] or (inputs.engine.name if inputs.engine is not None else "")
    if not wanted:
        if error := wait(Vllm(endpoints[0])):  # which all engines answer alike
            raise error
        wanted = detect_kind(endpoints[0])
    kind, _, version = wanted.lower().partition("@")
    servers = [open_server(kind, one) for one in endpoints]
    base, store = base_model(inputs, settings), Store(settings.cache_dir)

    def terms_of(versions: Collection[str]) -> Terms:
        named = [f"{kind}@{one}" for one in versions if not version]
        profiles = tuple(map(choose_engine, named or [wanted]))
        rank = given["max_lora_rank"] or inputs.max_lora_rank
        check_max_lora_rank(profiles, rank)
        return Terms(settings, base, engines=profiles, deployment=Deployment(rank))

    # With --prune, what neither the manifest nor a REF names goes.
    kept = frozenset(one.name for one in (inputs.manifest.adapters if inputs.manifest is not None else inputs.items))
    prune, named = kept if given["prune"] else None, base.repository
    changes = ReconcileOptions(prune, not given["no_prove"], given["allow_unload"], named)
    with InUse(store) as hold:
        context, path_of = FetchContext(store, settings, in_use=hold), path_mapping(given["engine_path"] or ())
        done = warm_servers(servers, inputs.items, context, changes, wait=wait, terms_of=terms_of, path_of=path_of)
    return EndpointsReport(servers=done[0], refused=done[1])


def _update_ready_file(file: Path | None, report: EndpointsReport, pid: int | None) -> None:
    """Writes the ready file if every adapter was tried on every server, else removes it.

    An adapter that fails does not matter: the server reports it to its clients. Raises ``MachineError``.
    """
    if not report.reached:
        remove_ready_file(file)
    elif file is not None:
        served = sum(one.error is None for one in report.done)
        write(json.dumps({"pid": pid, "served": served}) + "\n", file)
