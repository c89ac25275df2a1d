"""Make a running server serve the desired adapters: load missing ones, replace changed ones, prove each."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
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
    could not be fetched or was refused stays served as it is, and is reported if it is one of ``refused``. ``prove``
    checks the effect of each adapter; ``unload`` allows to unload although the engine has a bug in that.
    """

    prune: frozenset[str] | None = None
    prove: bool = True
    unload: bool = False
    refused: frozenset[str] = frozenset()


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
    until, tell_at, at = time.monotonic() + patience_s, 0.0, server.endpoint.address
    while True:
        try:
            server.check_ready()
        except EndpointError as error:
            left_s = until - time.monotonic()
            if isinstance(error, Refusal) and error.status == 404:
                return EndpointError(error.message, hint=NOT_AN_ENGINE_HINT)
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
        base = next((one.name for one in models if not one.parent), "")
        proof = CanaryProof(server, base) if options.prove else None
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
                hint = "remove it from the manifest and use --prune to unload it"
                still = Refused(f"{name} is still served from {one.root}: its new version was not accepted", hint=hint)
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
        action = _ensure_served(server, one, served, proof, options)
        if proof is not None:
            effect = proof.effect(one.name)
            _check(one.name, effect)
    except LoraCliError as error:
        return action, effect, _with_path_hint(error, one)
    return action, effect, None


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
    return "replaced"


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
        hint = "run lora-cli validate for this engine"
        raise Refused(f"{name} {effect.how}: it is loaded but changes nothing", hint=hint)


def _with_path_hint(error: LoraCliError, one: DesiredAdapter) -> LoraCliError:
    """Add a hint to a 404, whose usual cause is a path that the server does not see."""
    if isinstance(error, Refusal) and not error.hint and (error.status == 404 or one.path in error.server_message):
        hint = f"check that the engine can read {one.path}; mount the cache there, or map it: --engine-path FROM=TO"
        return Refusal(error.status, error.message, error.server_message, hint=hint)
    return error
