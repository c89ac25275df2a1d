"""Make running servers serve the desired adapters: judge them, load missing ones, replace changed ones, prove each."""

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

from lora_cli.endpoint.canary import CanaryProof, Effect
from lora_cli.endpoint.client import NOT_AN_ENGINE_HINT, Refusal
from lora_cli.endpoint.servers import ServedModel, Server
from lora_cli.errors import EndpointError, LoraCliError, Refused, UsageError
from lora_cli.fetching.batch import FetchContext
from lora_cli.judging.judge import fetch_one, judge_fetched
from lora_cli.judging.read import Terms
from lora_cli.parallel import map_in_threads
from lora_cli.refs.reference import hub_words
from lora_cli.refs.request import Request

Action = Literal["kept", "loaded", "replaced", "pruned", "failed"]
POLL_S = 0.25
TELL_S = 15.0
AT_ONCE = 4
"""Adapters that are loaded and proved at once on one server."""

ADMITTED_AT_ONCE = 8
"""Adapters that are fetched and judged at once."""

CANDIDATE = "lora-cli-candidate-"
"""A replacement is first loaded and proved under this prefix and its digest."""


@dataclass(frozen=True, slots=True)
class DesiredAdapter:
    """An adapter to be served as ``name``: its snapshot's digest, its path on the server, and whether it is pinned."""

    name: str
    digest: str
    path: str
    pinned: bool = False


@dataclass(frozen=True, slots=True)
class ReconcileOptions:
    """Options of ``reconcile``.

    ``prune`` unloads what is neither wanted nor has one of these names (None: nothing is unloaded): an adapter that
    could not be fetched or was refused stays served as it is, and is reported if it is one of ``refused``. ``prove``
    checks the effect of each adapter; ``unload`` allows to unload although the engine has a bug in that. ``base`` is
    the Hub's name of the adapters' base, "" if that is not known.
    """

    prune: frozenset[str] | None = None
    prove: bool = True
    unload: bool = False
    base: str = ""
    refused: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class AdapterOutcome:
    """The outcome for one adapter on one server. ``error`` says why it is not served as desired."""

    name: str
    action: Action
    ms: float
    effect: Effect | None
    error: LoraCliError | None


@dataclass(frozen=True, slots=True)
class Replica:
    """The outcome for one server: its kind and version, its adapters, and the error that ended the run."""

    address: str
    kind: str
    version: str
    error: LoraCliError | None
    adapters: tuple[AdapterOutcome, ...]
    note: str = ""
    """Another base than the adapters', memory that unloaded ones still take, and why pinned ones are not pinned."""


def wait_ready(
    server: Server, patience_s: float, is_over: Callable[[], bool], on_wait: Callable[[str], None]
) -> LoraCliError | None:
    """Wait until the server is ready; returns the error after ``patience_s``, or at once if waiting does not help.

    It does not help against an invalid certificate, or a status from 400 to 499 that asks for no later try.

    ``on_wait`` is given a line with the server that it waits for, the time left and the reason: at once, and after
    ``TELL_S`` seconds.
    """
    until, tell_at, at = time.monotonic() + patience_s, 0.0, server.endpoint.address
    while True:
        try:
            server.check_ready()
        except EndpointError as error:
            left_s = until - time.monotonic()
            status = error.status if isinstance(error, Refusal) else 0
            if (400 <= status < 500 and status not in {408, 425, 429}) or "[SSL" in error.message:
                return EndpointError(error.message, hint=error.hint or NOT_AN_ENGINE_HINT)
            if is_over():
                return EndpointError(f"{at} was not ready yet when the run was stopped")
            if left_s <= 0:
                said = f"{at} is not ready after {patience_s:g} s: {error.message}"
                return EndpointError(said, hint="check its log")
            if time.monotonic() >= tell_at:
                on_wait(f"waiting for {at} for up to {left_s:.0f} s: {error.message}")
                tell_at = time.monotonic() + TELL_S
        except LoraCliError as error:
            return error
        else:
            return None
        time.sleep(POLL_S)


def reconcile(
    server: Server, wanted: Sequence[DesiredAdapter], options: ReconcileOptions
) -> tuple[list[AdapterOutcome], LoraCliError | None]:
    """Load, replace and prove adapters, a few at a time; ``prune`` unloads the others.

    Adapters served from the right path are kept. A failure does not stop the others. Returns the outcomes, and the
    error that ended the run early.
    """
    done: list[AdapterOutcome] = []
    try:
        server.check_reach()
        models = server.models()
        served = {one.name: one for one in models if one.parent}
        proof = CanaryProof(server, server.base.name if server.base else "") if options.prove else None
        done += map_in_threads(
            lambda one: _timed(one.name, partial(_serve_one, server, one, served.get(one.name), proof, options)),
            wanted,
            AT_ONCE,
        )
        for name, one in served.items():
            is_kept = options.prune is None or name in options.prune or any(name == each.name for each in wanted)
            if not is_kept:
                done.append(_timed(name, partial(_prune, server, name, options)))
            elif name in options.refused:
                hint = "mend it or restore the earlier lock; without it in the manifest, --prune unloads it"
                still = Refused(f"{name} was refused or not fetched, and is still served from {one.root}", hint=hint)
                done.append(AdapterOutcome(name, "kept", 0.0, None, still))
    except LoraCliError as error:
        return done, error
    return done, None


def _timed(name: str, call: Callable[[], tuple[Action, Effect | None, LoraCliError | None]]) -> AdapterOutcome:
    began = time.perf_counter()
    try:
        action, effect, error = call()
    except LoraCliError as failure:
        action, effect, error = "failed", None, failure
    return AdapterOutcome(name, action, (time.perf_counter() - began) * 1e3, effect, error)


def _serve_one(
    server: Server,
    one: DesiredAdapter,
    served: ServedModel | None,
    proof: CanaryProof | None,
    options: ReconcileOptions,
) -> tuple[Action, Effect | None, LoraCliError | None]:
    """Load or replace one adapter, and prove it; what was loaded stays, though it may not be proved."""
    effect: Effect | None = None
    action: Action = "failed"
    try:
        if served is None:
            server.load(one.name, one.path, pinned=one.pinned)
            action = "loaded"
        elif served.is_from(one.path, one.digest):
            action = "kept"
        else:
            _replace(server, one, served, proof, options)
            action = "replaced"
        if proof is not None:
            effect = proof.effect(one.name)
            _check(one.name, effect)
    except Refusal as error:
        # The usual cause of a 404 is a path that the server does not see.
        hint = f"check that the engine can read {one.path}; mount the cache there, or map it: --engine-path FROM=TO"
        if not error.hint and (error.status == 404 or one.path in error.server_message):
            return action, effect, Refusal(error.status, error.message, error.server_message, hint=hint)
        return action, effect, error
    except LoraCliError as error:
        return action, effect, error
    return action, effect, None


def _replace(
    server: Server, one: DesiredAdapter, served: ServedModel, proof: CanaryProof | None, options: ReconcileOptions
) -> None:
    """Replace one adapter, which keeps serving until the new one is proved."""
    still = f"{one.name} is still served from {served.root}"
    if server.replaces_by_unload and server.unload_bug and not options.unload:
        hint = "give the changed adapter a new name, or use --allow-unload"
        raise Refused(f"{still}: {server.unload_bug}", hint=hint)
    if proof is not None:
        candidate = f"{CANDIDATE}{one.digest[:16] or one.name}"
        server.load(candidate, one.path)
        try:
            effect = proof.effect(candidate)
        finally:
            server.unload(candidate)
        _check(f"{still}: the new version", effect)
    server.replace(one.name, one.path, pinned=one.pinned)
    now = next((model for model in server.models() if model.name == one.name), None)
    if now is None or not now.is_from(one.path, one.digest):
        raise EndpointError(f"{server.endpoint.address} still serves {one.name} from {now.root if now else 'nowhere'}")


def _prune(server: Server, name: str, options: ReconcileOptions) -> tuple[Action, None, None]:
    if server.unload_bug and not options.unload:
        hint = "restart the server, or use --allow-unload"
        raise Refused(f"{name} is still served: {server.unload_bug}", hint=hint)
    server.unload(name)
    return "pruned", None, None


def _check(name: str, effect: Effect) -> None:
    """Raises ``Refused`` unless the effect is proved."""
    if effect.proved is None:
        hint = "this needs a server with deterministic greedy decoding"
        raise Refused(f"{name}: its effect is unknown: {effect.how}", hint=hint)
    if not effect.proved:
        hint = "clients get the base's output under its name: unload or mend it (lora-cli validate)"
        raise Refused(f"{name} {effect.how}: it is loaded but changes nothing", hint=hint)


def warm_servers(
    servers: Sequence[Server],
    items: Sequence[Request],
    context: FetchContext,
    options: ReconcileOptions,
    *,
    wait: Callable[[Server], LoraCliError | None],
    terms_of: Callable[[Collection[str]], Terms],
    path_of: Callable[[Path], str],
) -> tuple[list[Replica], list[AdapterOutcome]]:
    """What was done on each server, and the adapters that none was asked to load.

    ``wait`` waits until a server is ready, or says why it is not. ``terms_of`` gives the terms for servers of these
    versions, and ``path_of`` the path of a folder as the servers see it.
    """
    waited = dict(zip(servers, map_in_threads(wait, servers, len(servers)), strict=True))
    ready = [server for server, error in waited.items() if error is None]
    versions = {server: server.version() for server in ready}
    terms = terms_of(dict.fromkeys(filter(None, versions.values())))
    results = map_in_threads(
        lambda item: judge_fetched(fetch_one(item, context), terms),
        items if ready else (),
        ADMITTED_AT_ONCE,
    )
    wanted, refused = list[DesiredAdapter](), list[AdapterOutcome]()
    for item, result in zip(items, results, strict=False):
        if result.refusal is not None:
            took_ms = sum(result.stage_ms.values())
            refused.append(AdapterOutcome(item.name, "failed", took_ms, None, result.refusal))
        elif result.snapshot is not None:
            path = path_of(result.snapshot.directory)
            wanted.append(DesiredAdapter(item.name, result.snapshot.digest, path, item.keep_loaded))
    options = replace(options, refused=frozenset(one.name for one in refused))
    serve = partial(reconcile, wanted=wanted, options=options)
    done = dict(zip(ready, map_in_threads(serve, ready, len(ready)), strict=True))
    replicas, pinned = [], any(one.pinned for one in wanted)
    for server in servers:
        adapters, error = done.get(server, ([], waited[server]))
        notes = _other_base(server.base, options.base), server.note({one.action for one in adapters}, pinned=pinned)
        at, note = str(server.endpoint.address), "; ".join(filter(None, notes))
        replicas.append(Replica(at, server.kind, versions.get(server, ""), error, tuple(adapters), note))
    return replicas, refused


def _other_base(served: ServedModel | None, base: str) -> str:
    """That a server has another model of the Hub than ``base``; "" where either is a folder or not known."""
    if not base or served is None or not hub_words(served.root):
        return ""
    same = base.lower() in {one.partition("@")[0].lower() for one in (served.name, served.root)}
    return "" if same else f"it serves {served.root}, but the base of the adapters is {base}"


def path_mapping(paths: Sequence[str]) -> Callable[[Path], str]:
    """What maps local paths to those of the servers, by the longest FROM of ``FROM=TO`` that matches.

    Raises:
        UsageError: one is not FROM=TO.
    """
    pairs: dict[Path, str] = {}
    for text in paths:
        ours, _, theirs = text.partition("=")
        if not ours or not theirs.startswith("/"):
            raise UsageError(f"--engine-path {text} is not FROM=TO", hint="--engine-path ~/.cache/lora-cli=/adapters")
        pairs.setdefault(Path(ours).expanduser().absolute(), theirs.rstrip("/"))

    def path_of(path: Path) -> str:
        for ours in (path, *path.parents):
            if ours in pairs:
                return f"{pairs[ours]}/{path.relative_to(ours).as_posix()}".rstrip("/")
        return str(path)

    return path_of
