"""Make a running server serve the desired adapters: load missing ones, replace changed ones, prove each."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from lora_cli.endpoint.canary import CanaryProof, Effect
from lora_cli.endpoint.client import NOT_AN_ENGINE_HINT, Refusal
from lora_cli.endpoint.servers import ServedModel, Server
from lora_cli.errors import EndpointError, LoraCliError, Refused
from lora_cli.parallel import map_in_threads

Action = Literal["kept", "loaded", "replaced", "pruned", "failed"]
POLL_S = 0.25
TELL_S = 15.0
AT_ONCE = 4
"""Adapters that are loaded and proved at once on one server."""

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
    could not be fetched or was refused stays served as it is. ``prove`` checks the effect of each adapter; ``unload``
    allows to unload although the engine has a bug in that.
    """

    prune: frozenset[str] | None = None
    prove: bool = True
    unload: bool = False
    refused: frozenset[str] = frozenset()
    """Names whose version could not be fetched or was refused: what is served under them is reported."""


@dataclass(frozen=True, slots=True)
class AdapterOutcome:
    """The outcome for one adapter on one server. ``error`` says why it is not served as desired."""

    name: str
    action: Action
    ms: float
    effect: Effect | None
    error: LoraCliError | None

    @property
    def exit_code(self) -> int:
        """The exit code for this adapter."""
        return self.error.exit_code if self.error is not None else 0


@dataclass(frozen=True, slots=True)
class Replica:
    """The outcome for one server: its kind and version, its adapters, and the error that ended the run."""

    address: str
    kind: str
    version: str
    error: LoraCliError | None
    adapters: tuple[AdapterOutcome, ...]
    note: str = ""
    """Memory that unloaded adapters still take on the server, and why pinned adapters are not pinned there."""


def wait_ready(
    server: Server, patience_s: float, is_over: Callable[[], bool], on_wait: Callable[[str], None]
) -> LoraCliError | None:
    """Wait until the server is ready; returns the error after ``patience_s``, or at once if it has no such path.

    ``on_wait`` is called with the server that it waits for, the reason and the time left: at once, and again after
    ``TELL_S`` seconds.
    """
    until = time.monotonic() + patience_s
    tell_at = 0.0
    while True:
        try:
            server.check_ready()
        except EndpointError as error:
            if isinstance(error, Refusal) and error.status == 404:
                return EndpointError(error.message, hint=NOT_AN_ENGINE_HINT)
            if is_over():
                return EndpointError(f"{server.endpoint.address} was not ready yet when the run was stopped")
            if time.monotonic() >= until:
                return EndpointError(
                    f"{server.endpoint.address} is not ready after {patience_s:g} s: {error.message}",
                    hint="check its log; --wait waits longer",
                )
            if time.monotonic() >= tell_at:
                on_wait(
                    f"waiting for {server.endpoint.address} for up to {until - time.monotonic():.0f} s: {error.message}"
                )
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
        base = next((one.name for one in models if not one.parent), "")
        served = {one.name: one for one in models if one.parent}
        proof = CanaryProof(server, base) if options.prove else None
        done += map_in_threads(
            lambda one: _reconcile_one(server, one, served.get(one.name), proof, options), wanted, AT_ONCE
        )
        if options.prune is not None:
            kept = options.prune.union(one.name for one in wanted)
            done.extend(_prune(server, served, kept, options))
        unloaded = {one.name for one in done if one.action == "pruned"}
        done.extend(_still_served(one) for name, one in served.items() if name in options.refused - unloaded)
    except LoraCliError as error:
        return done, error
    return done, None


def _reconcile_one(
    server: Server,
    one: DesiredAdapter,
    served: ServedModel | None,
    proof: CanaryProof | None,
    options: ReconcileOptions,
) -> AdapterOutcome:
    began = time.perf_counter()
    effect: Effect | None = None
    action: Action = "failed"
    error: LoraCliError | None = None
    try:
        action = _ensure_served(server, one, served, proof, options)
        if proof is not None:
            effect = proof.effect(one.name)
            if effect.proved is not True:
                raise _no_effect(one.name, effect)
    except LoraCliError as failure:
        error = _with_path_hint(failure, one)
    return AdapterOutcome(one.name, action, (time.perf_counter() - began) * 1e3, effect, error)


def _ensure_served(
    server: Server,
    one: DesiredAdapter,
    served: ServedModel | None,
    proof: CanaryProof | None,
    options: ReconcileOptions,
) -> Action:
    """Load or replace one adapter; a replaced one keeps serving until the new one is proved."""
    if served is None:
        server.load(one.name, one.path, pinned=one.pinned)
        return "loaded"
    if served.is_from(one.path, one.digest):
        return "kept"
    if server.replaces_by_unload and (bug := _unload_bug(server, options)):
        hint = "give the changed adapter a new name, or use --allow-unload"
        raise Refused(f"{one.name} is still served from {served.root}: {bug}", hint=hint)
    if proof is not None:
        candidate = f"{CANDIDATE}{one.digest[:16] or one.name}"
        server.load(candidate, one.path)
        try:
            effect = proof.effect(candidate)
        finally:
            server.unload(candidate)
        if effect.proved is not True:
            raise _no_effect(f"{one.name} is still served from {served.root}: the new version", effect)
    server.replace(one.name, one.path, pinned=one.pinned)
    now = next((model for model in server.models() if model.name == one.name), None)
    if now is None or not now.is_from(one.path, one.digest):
        raise EndpointError(f"{server.endpoint.address} still serves {one.name} from {now.root if now else 'nowhere'}")
    return "replaced"


def _still_served(one: ServedModel) -> AdapterOutcome:
    """The outcome of an adapter whose new version was refused or could not be fetched, while an earlier one serves."""
    hint = "remove it from the manifest and use --prune to unload it"
    error = Refused(f"{one.name} is still served from {one.root}: its new version was not accepted", hint=hint)
    return AdapterOutcome(one.name, "kept", 0.0, None, error)


def _unload_bug(server: Server, options: ReconcileOptions) -> str:
    return "" if options.unload else server.unload_bug


def _prune(
    server: Server, served: dict[str, ServedModel], kept: frozenset[str], options: ReconcileOptions
) -> Iterator[AdapterOutcome]:
    for name in served:
        if name in kept:
            continue
        began = time.perf_counter()
        error: LoraCliError | None = None
        try:
            if bug := _unload_bug(server, options):
                raise Refused(f"{name} is still served: {bug}", hint="restart the server, or use --allow-unload")
            server.unload(name)
        except LoraCliError as failure:
            error = failure
        action: Action = "failed" if error is not None else "pruned"
        yield AdapterOutcome(name, action, (time.perf_counter() - began) * 1e3, None, error)


def _no_effect(name: str, effect: Effect) -> Refused:
    if effect.proved is None:
        hint = (
            "this needs a server with deterministic greedy decoding"
            if effect.noise
            else "see GET /v1/adapters for its state"
        )
        return Refused(f"{name}: its effect is unknown: {effect.how}", hint=hint)
    return Refused(
        f"{name} {effect.how}: it is loaded but changes nothing",
        hint="run lora-cli validate for this engine",
    )


def _with_path_hint(error: LoraCliError, one: DesiredAdapter) -> LoraCliError:
    """Add a hint to a 404, whose usual cause is a path that the server does not see."""
    if isinstance(error, Refusal) and not error.hint and (error.status == 404 or one.path in error.server_message):
        hint = f"check that the engine can read {one.path}; mount the cache there, or map it: --engine-path FROM=TO"
        return Refusal(error.status, error.message, error.server_message, hint=hint)
    return error
