"""What a command or a program asks for: adapters, base, engines and limits, from references or a manifest."""

import os
import shlex
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from lora_cli.errors import AccessDenied, NotFound, Unreachable, UsageError
from lora_cli.fetching.file_selection import from_refs
from lora_cli.finding import Deployment
from lora_cli.redaction import without_secrets
from lora_cli.refs.adapter_files import BASE_CONFIG_CAP
from lora_cli.refs.reference import AdapterRef, is_path, parse
from lora_cli.refs.request import BASE, THE_BASE, Lock, LockedAdapter, LockFlags, Request, Selection, ref_at
from lora_cli.settings import Settings
from lora_cli.text import counted, did_you_mean, names, safe, words_of

if TYPE_CHECKING:
    from lora_cli.base.base_model import BaseModel
    from lora_cli.checks.check import Check
    from lora_cli.documents.manifest import AdapterSet, EngineSpec
    from lora_cli.engines import Profile
    from lora_cli.fetching.batch import Outcome
    from lora_cli.fetching.lock_update import SetLock
    from lora_cli.judging.read import Terms
    from lora_cli.store import Store

MAX_LORAS, MAX_CPU_LORAS = 8, 32
"""Defaults: the most slots on the device, and the most adapters in memory."""

POLICY = "LORA_CLI_POLICY"
NO_BASE = "none"
BASE_TIMEOUT_S = 10.0
"""Timeout of the base's config: the adapters are already fetched."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """The adapters of a run in the given order, their base (``none``: no base), and their manifest, if any.

    ``locked_base`` is that base as the lock has it, which is read from there; None if it is not locked. ``has_lock``:
    whether the manifest has a lock file; None without a manifest, or for one on standard input.

    Of a fetch, ``lock`` is that file, and ``base_request`` the base whose config is to be locked, if it is. ``way``
    says how the user can name a base.
    """

    items: tuple[Request, ...]
    base: str | AdapterRef
    manifest: "AdapterSet | None" = None
    has_lock: bool | None = None
    locked_base: LockedAdapter | None = None
    lock: "SetLock | None" = None
    base_request: Request | None = None
    way: str = "set --base DIR"

    @property
    def engine(self) -> "EngineSpec | None":
        """The engine in the manifest."""
        return self.manifest.engine if self.manifest is not None else None

    @property
    def max_lora_rank(self) -> int | None:
        """The ``max_lora_rank`` of the engine in the manifest."""
        return self.engine.max_lora_rank if self.engine is not None else None

    def to_validate(self, settings: Settings, *, digests: bool = False) -> list[Request]:
        """The adapters as ``each`` takes them: named as in the manifest, with the digests to verify.

        Digests in the manifest are verified with a policy, a lock or ``digests`` only: that reads all bytes.
        """
        named, every = self.manifest is not None, digests or bool(settings.policies)
        return [
            replace(one, name=one.name if named else "", sha256=one.sha256 if every or one.locked is not None else None)
            for one in self.items
        ]


def read_inputs(file: Path | None, refs: Sequence[str], base: str, verb: str, *, may_be_empty: bool = False) -> Inputs:
    """The adapters of ``refs`` or of a manifest, in which these are names; ``base`` overrides the manifest's.

    A lock next to the manifest pins the adapters that match it, as in ``fetch``.

    Raises:
        UsageError: there are no adapters (unless there ``may_be_empty``), or the manifest or its lock is invalid.
    """
    if file is None:
        if not refs and not may_be_empty:
            raise UsageError(f"there is nothing to {verb}", hint="add adapters, or an adapter set with -f")
        return Inputs(from_refs(refs), base)
    from lora_cli.documents.document import STDIN
    from lora_cli.documents.manifest import lock_path, locked_adapters, locked_base, read_lock, requests_of

    manifest, entries = _read_manifest(file, refs)
    lock, has_folder = None, str(file) != STDIN and file.is_file()
    if has_folder:
        with suppress(NotFound):
            lock = read_lock(lock_path(file), str(file))
    locked = locked_adapters(manifest, lock) if lock is not None else {}
    model = None if base else locked_base(manifest, lock)
    named = base or _base_of(manifest, model)
    return Inputs(requests_of(entries, locked), named, manifest, lock is not None if has_folder else None, model)


def _read_manifest(file: Path, refs: Sequence[str]) -> "tuple[AdapterSet, list[Request]]":
    """The manifest, and its adapters of these names; all if there are no names."""
    from lora_cli.documents.manifest import read_manifest

    manifest = read_manifest(file)
    known = [entry.name for entry in manifest.adapters]
    for name in (name for name in refs if name not in known):
        raise UsageError(f"{manifest.file} has no adapter {safe(name)!r}", hint=did_you_mean(name, known))
    return manifest, [entry for entry in manifest.adapters if not refs or entry.name in refs]


def _base_of(manifest: "AdapterSet", locked: LockedAdapter | None) -> str | AdapterRef:
    if manifest.base is None:
        return ""
    return manifest.base if locked is None else ref_at(manifest.base, locked)


def inputs_to_fetch(file: Path | None, refs: Sequence[str], selection: Selection, flags: LockFlags) -> Inputs:
    """The adapters to fetch, each at its locked version where it has one and the ``flags`` do not ask for another.

    Raises:
        UsageError: there are no adapters, or the manifest or its lock is invalid.
        NotFound, Refused: with ``flags.locked``, there is no lock, or it does not match the manifest.
    """
    if file is None:
        if not refs:
            raise UsageError("there is nothing to fetch", hint="add adapters, or an adapter set with -f")
        found = ((str(one.source), replace(selection, latest=one.selection.latest)) for one in from_refs(refs))
        return Inputs(tuple(request_of(text, with_run) for text, with_run in found), "")
    from lora_cli.documents.manifest import locked_base
    from lora_cli.fetching.lock_update import open_lock

    manifest, entries = _read_manifest(file, refs)
    items = tuple(replace(one, selection=replace(selection, latest=one.selection.latest)) for one in entries)
    lock = open_lock(file, manifest, flags)
    if lock is None:
        return Inputs(items, _base_of(manifest, None), manifest)
    if flags.locked:
        lock.check_agrees()
    remote = manifest.base is not None and manifest.base.scheme != "file"
    base = Request(THE_BASE, manifest.base, selection=BASE) if remote and manifest.base is not None else None
    items, base = tuple(lock.apply(items)), lock.apply_base(base)
    model = None if flags.upgrade and not flags.some else locked_base(manifest, lock.lock)
    return Inputs(items, _base_of(manifest, model), manifest, True, model, lock, base)


def request_of(text: str, selection: Selection) -> Request:
    """The request for one reference; an invalid one is reported as its outcome, and does not stop the others."""
    typed = without_secrets(text)
    try:
        ref = parse(text, is_path=is_path)
    except UsageError as error:
        return Request(typed, typed, invalid=error, written=typed)
    return Request(ref.name, ref, selection=selection, written=typed)


def write_lock(
    inputs: Inputs, done: "Iterable[Outcome]", store: "Store", settings: Settings, warn: Callable[[str], None]
) -> tuple[Lock, Lock]:
    """Locks what was fetched, and the config of the manifest's base: the lock before and after.

    ``warn`` is told why the base could not be locked.

    Raises:
        MachineError, UsageError: see ``SetLock.update``.
    """
    from lora_cli.fetching.batch import fetch_all

    assert inputs.lock is not None
    base = None
    if inputs.base_request is not None:
        within_s = min(settings.adapter_timeout_s, BASE_TIMEOUT_S)
        # Policies about adapters do not apply to the base.
        own = replace(settings, policies=(), max_bytes=BASE_CONFIG_CAP, adapter_timeout_s=within_s)
        base = next(fetch_all([inputs.base_request], store, own))
        if base.error is not None:
            warn(f"{THE_BASE} is not locked: {base.error.message}")
    return inputs.lock.update(done, base, settings, warn)


def unlocked_warning(inputs: Inputs, *, without_lock: bool = False) -> str:
    """A warning that names the adapters of a manifest that are neither locked nor pinned; "" if there are none.

    A manifest without a lock file is reported only with ``without_lock``.
    """
    if inputs.manifest is None or not (inputs.has_lock or (without_lock and inputs.has_lock is False)):
        return ""
    unpinned = [
        item.name
        for item in inputs.items
        if item.ref.scheme != "file" and not (item.locked or item.sha256 or item.ref.pinned)
    ]
    if not unpinned:
        return ""
    file, are = inputs.manifest.file, "is" if len(unpinned) == 1 else "are"
    unlocked = f"{counted(len(unpinned), 'adapter')} of {file} {are} not locked: {names(unpinned)}"
    return safe(f"warning: {unlocked}; lora-cli fetch -f {shlex.quote(file)} locks what it can")


def apply_policies(settings: Settings, manifest: "AdapterSet | None", policy: Path | None = None) -> Settings:
    """``settings`` with the manifest's policy, and with that of the file ``policy``, else of ``LORA_CLI_POLICY``.

    Raises:
        UsageError: an error in the policy file, with line and key.
    """
    policy = policy or (Path(file) if (file := os.environ.get(POLICY)) else None)
    if manifest is not None or policy is not None:
        from lora_cli.fetching.gate import with_policies

        settings = with_policies(settings, manifest, policy)
    return settings


def base_model(inputs: Inputs, settings: Settings) -> "BaseModel":
    """The base model of ``inputs``, by the locked config where there is one.

    Raises:
        NotFound, AccessDenied, Unreachable, FormatError: it cannot be read.
    """
    from lora_cli.judging.read import open_base

    try:
        return open_base(inputs.base, settings, locked=inputs.locked_base)
    except (NotFound, AccessDenied, Unreachable) as error:
        hint = f"this is the base model: {inputs.way}, a folder with its config.json is enough; {error.hint}"
        raise type(error)(error.message, hint=hint) from error


def named_engines(named: Sequence[str], inputs: Inputs) -> "tuple[Profile, ...]":
    """The profiles of the ``named`` engines, else of the manifest's engine, each once.

    Raises:
        UsageError: an unknown engine, or not a version.
    """
    words, manifest = words_of(named), inputs.manifest
    if named and not words:
        raise UsageError("--engine has no value", hint="use NAME or NAME@VERSION, or remove the option")
    if not words and inputs.engine is None:
        return ()
    from lora_cli.engines import choose_engine

    if words or manifest is None or manifest.engine is None:
        return tuple(map(choose_engine, dict.fromkeys(words)))
    try:
        return (choose_engine(manifest.engine.wanted),)
    except UsageError as error:
        raise UsageError(f"{manifest.file}: engine: {error.message}", hint=error.hint) from error


def terms_of(
    inputs: Inputs,
    settings: Settings,
    *,
    engines: Sequence[str] = (),
    deployment: Deployment | None = None,
    values: bool = True,
    rules: "Sequence[Check] | None" = None,
) -> "Terms":
    """What the adapters are judged by: the base of ``inputs``, else each its own; ``engines``, else the manifest's.

    Raises:
        NotFound, AccessDenied, Unreachable, FormatError: the base cannot be read.
        UsageError: an unknown engine, or limits with which none would start.
    """
    from lora_cli.engines import check_max_lora_rank
    from lora_cli.judging.read import Terms, check_tp

    profiles, model, limits = named_engines(engines, inputs), None, deployment or Deployment()
    if limits.max_lora_rank is None and inputs.engine is not None:
        limits = replace(limits, max_lora_rank=inputs.engine.max_lora_rank)
    check_max_lora_rank(profiles, limits.max_lora_rank)
    if inputs.base and inputs.base != NO_BASE:
        model = base_model(inputs, settings)
    check_tp(model, limits.tp)
    way = "" if inputs.base else inputs.way
    return Terms(settings, model, way, values=values, rules=rules, engines=profiles, deployment=limits)


def slot_limits(
    inputs: Inputs,
    max_loras: int | None,
    max_cpu_loras: int | None,
    max_lora_rank: int | None,
    *,
    more_may_come: bool = False,
) -> tuple[int, int, int]:
    """``max_loras``, ``max_cpu_loras`` and ``max_lora_rank`` (0: none) of a warm process.

    They are those given, else the limits of the manifest's engine, else the number of adapters up to the defaults; with
    ``more_may_come`` memory holds as many as the default.

    Raises:
        UsageError: ``max_cpu_loras`` is less than ``max_loras``.
    """
    engine, count = inputs.engine, MAX_CPU_LORAS if more_may_come else len(inputs.items)
    loras = max_loras or (engine and engine.max_loras) or min(MAX_LORAS, count)
    check_max_cpu_loras(max_cpu_loras, loras)
    cpu_loras = max_cpu_loras or max(loras, (engine and engine.max_cpu_loras) or min(MAX_CPU_LORAS, count))
    return loras, cpu_loras, max_lora_rank or inputs.max_lora_rank or 0


def check_max_cpu_loras(max_cpu_loras: int | None, max_loras: int | None) -> None:
    """Checks that memory holds at least as many adapters as there are slots, as vLLM requires.

    Raises:
        UsageError: it holds fewer.
    """
    if max_cpu_loras is not None and max_loras is not None and max_cpu_loras < max_loras:
        raise UsageError(
            f"--max-cpu-loras is {max_cpu_loras}, less than max_loras, which is {max_loras}",
            hint=f"--max-cpu-loras {max_loras}",
        )
