"""The inputs of a command: adapters, base, engines and limits, from the command line and the manifest."""

import shlex
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from lora_cli.errors import AccessDenied, NotFound, Unreachable, UsageError
from lora_cli.fetching.file_selection import adapters_in, from_refs
from lora_cli.finding import Deployment
from lora_cli.redaction import without_secrets
from lora_cli.refs.lock import THE_BASE, LockedAdapter, ref_at
from lora_cli.refs.reference import AdapterRef, is_path, parse
from lora_cli.refs.request import BASE, Request, Selection
from lora_cli.settings import Settings
from lora_cli.text import counted, did_you_mean, names, safe, words_of

if TYPE_CHECKING:
    from lora_cli.base.base_model import BaseModel
    from lora_cli.documents.manifest import AdapterSet, EngineSpec
    from lora_cli.engines import Profile

MAX_LORAS, MAX_CPU_LORAS = 8, 32
"""Defaults: the most slots on the device, and the most adapters in memory."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """The adapters of a command in the given order, their base, and their manifest, if any.

    ``locked_base`` is that base as the lock has it, which is read from there; None if it is not locked.
    ``has_lock``: whether the manifest has a lock file; None without a manifest, or for one on standard input.
    """

    items: tuple[Request, ...]
    base: str | AdapterRef
    manifest: "AdapterSet | None" = None
    has_lock: bool | None = None
    locked_base: LockedAdapter | None = None

    @property
    def engine(self) -> "EngineSpec | None":
        """The engine in the manifest."""
        return self.manifest.engine if self.manifest is not None else None

    @property
    def max_lora_rank(self) -> int | None:
        """The ``max_lora_rank`` of the engine in the manifest."""
        return self.engine.max_lora_rank if self.engine is not None else None

    def to_validate(self, settings: Settings, *, digests: bool = False) -> list[Request]:
        """The adapters as ``judge_all`` takes them: named as in the manifest, with the digests to verify.

        Digests in the manifest are verified with a policy, a lock or ``digests`` only: that reads all bytes.
        """
        every = digests or bool(settings.policies)
        return [
            replace(
                item,
                name=item.name if self.manifest else "",
                sha256=item.sha256 if every or item.locked is not None else None,
            )
            for item in self.items
        ]


def read_named_manifest(
    file: Path | None, refs: Sequence[str], verb: str, *, may_be_empty: bool = False
) -> "AdapterSet | None":
    """The adapter set of ``-f``; None for REFs, of which one is required unless ``may_be_empty``.

    Raises:
        UsageError: there are no adapters, the manifest is invalid, or it lacks an adapter of that name.
    """
    if file is None:
        if not refs and not may_be_empty:
            raise UsageError(f"there is nothing to {verb}", hint="add adapters, or an adapter set with -f")
        return None
    from lora_cli.documents.manifest import read_manifest

    manifest = read_manifest(file)
    known = [entry.name for entry in manifest.adapters]
    for name in (name for name in refs if name not in known):
        raise UsageError(f"{manifest.file} has no adapter {safe(name)!r}", hint=did_you_mean(name, known))
    return manifest


def read_inputs(file: Path | None, refs: Sequence[str], base: str, verb: str, *, may_be_empty: bool = False) -> Inputs:
    """The adapters and the base on the command line; ``base`` overrides the manifest's, and may be empty.

    With a manifest ``refs`` are names in it. With ``may_be_empty`` there may be no adapters. A lock next to the
    manifest pins the adapters that match it, as in ``fetch``.

    Raises:
        UsageError: there are no adapters, or the manifest or its lock is invalid.
    """
    manifest = read_named_manifest(file, refs, verb, may_be_empty=may_be_empty)
    named = base or (manifest.base if manifest is not None else None) or ""
    if manifest is None:
        return Inputs(from_refs(refs), named)
    from lora_cli.documents.document import STDIN
    from lora_cli.documents.lockfile import lock_path, locked_adapters, locked_base, read_lock, requests_of

    assert file is not None
    lock, has_folder = None, str(file) != STDIN and file.is_file()
    if has_folder:
        with suppress(NotFound):
            lock = read_lock(lock_path(file), str(file))
    locked = locked_adapters(manifest, lock) if lock is not None else {}
    model = None if base else locked_base(manifest, lock)
    if model is not None:
        assert manifest.base is not None
        named = ref_at(manifest.base, model)
    entries = requests_of(_named_entries(manifest, refs), locked)
    return Inputs(entries, named, manifest, lock is not None if has_folder else None, model)


def unlocked_warning(inputs: Inputs, *, without_lock: bool = False) -> str:
    """A warning that names the adapters of a manifest that are neither locked nor pinned; "" if there are none.

    A manifest without a lock file is reported only with ``without_lock``.
    """
    if inputs.manifest is None or not (inputs.has_lock or (without_lock and inputs.has_lock is False)):
        return ""
    unpinned = [
        item.name
        for item in inputs.items
        if isinstance(item.source, AdapterRef)
        and item.source.scheme != "file"
        and not (item.locked or item.sha256 or item.source.pinned)
    ]
    if not unpinned:
        return ""
    file, are = inputs.manifest.file, "is" if len(unpinned) == 1 else "are"
    unlocked = f"{counted(len(unpinned), 'adapter')} of {file} {are} not locked: {names(unpinned)}"
    return safe(f"warning: {unlocked}; lora-cli fetch -f {shlex.quote(file)} locks them")


def _named_entries(manifest: "AdapterSet", names: Sequence[str]) -> list[Request]:
    """The adapters of these names; all if there are no names."""
    return [entry for entry in manifest.adapters if not names or entry.name in names]


def named_engines(named: Sequence[str] | None, manifest: "AdapterSet | None") -> "tuple[Profile, ...]":
    """The profiles of ``--engine``, else of the manifest's engine, each once.

    Raises:
        UsageError: an unknown engine, or not a version.
    """
    words = words_of(named or ())
    if named and not words:
        raise UsageError("--engine has no value", hint="use NAME or NAME@VERSION, or remove the option")
    spec = manifest.engine if manifest is not None else None
    if not words and spec is None:
        return ()
    from lora_cli.engines import choose_engine

    if words or spec is None or manifest is None:
        return tuple(map(choose_engine, dict.fromkeys(words)))
    try:
        return (choose_engine(spec.wanted),)
    except UsageError as error:
        raise UsageError(f"{manifest.file}: engine: {error.message}", hint=error.hint) from error


def deployment_of(engines: "Sequence[Profile]", max_lora_rank: int | None) -> Deployment:
    """The launch options of the engines.

    Raises:
        UsageError: an engine does not start with that ``max_lora_rank``.
    """
    if engines:
        from lora_cli.engines import check_max_lora_rank

        check_max_lora_rank(engines, max_lora_rank)
    return Deployment(max_lora_rank=max_lora_rank)


def apply_policies(settings: Settings, manifest: "AdapterSet | None", policy: Path | None = None) -> Settings:
    """``settings`` with the manifest's ``policy``, and with the policy file of ``--policy``.

    Raises:
        UsageError: an error in the policy file, with line and key.
    """
    if manifest is not None or policy is not None:
        from lora_cli.fetching.gate import with_policies

        settings = with_policies(settings, manifest, policy)
    return settings


def base_model(
    named: str | AdapterRef, settings: Settings, locked: LockedAdapter | None = None, option: str = "--base"
) -> "BaseModel":
    """The base model of a path or reference, by the ``locked`` config where there is one."""
    from lora_cli.judging.base_model import open_base

    try:
        return open_base(named, settings, locked=locked)
    except (NotFound, AccessDenied, Unreachable) as error:
        hint = f"this is the base model: {option} also takes a folder or a config.json; {error.hint}"
        raise type(error)(error.message, hint=hint) from error


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


class SlotLimits(NamedTuple):
    """The limits of a warm process, in vLLM's words; ``max_lora_rank`` 0 is none."""

    max_loras: int
    max_cpu_loras: int
    max_lora_rank: int


def slot_limits(
    inputs: Inputs,
    max_loras: int | None,
    max_cpu_loras: int | None,
    max_lora_rank: int | None,
    *,
    more_may_come: bool = False,
) -> SlotLimits:
    """The flags, else the limits of the manifest's engine, else the number of adapters up to the defaults.

    With ``more_may_come`` memory holds as many as the default.

    Raises:
        UsageError: ``max_cpu_loras`` is less than ``max_loras``.
    """
    engine, count = inputs.engine, MAX_CPU_LORAS if more_may_come else len(inputs.items)
    loras = max_loras or (engine and engine.max_loras) or min(MAX_LORAS, count)
    check_max_cpu_loras(max_cpu_loras, loras)
    cpu_loras = max_cpu_loras or max(loras, (engine and engine.max_cpu_loras) or min(MAX_CPU_LORAS, count))
    return SlotLimits(loras, cpu_loras, max_lora_rank or inputs.max_lora_rank or 0)


@dataclass(frozen=True, slots=True)
class FetchRequests:
    """The adapters to fetch in the given order, and their manifest, if any.

    ``base`` is the manifest's base, whose config is to be locked; None if it is a path, or stays as it is locked.
    ``alone``: the command line has a single adapter. A shard of one does not count: ``--to`` then writes a folder for
    each.
    """

    adapters: tuple[Request, ...]
    manifest: "AdapterSet | None" = None
    alone: bool = False
    base: Request | None = None

    @property
    def every(self) -> tuple[Request, ...]:
        """The adapters, and the base if it is asked for."""
        return (*self.adapters, *((self.base,) if self.base is not None else ()))

    def key(self, request: Request) -> str:
        """The sort key for shards: the name in the manifest, else the reference."""
        named = self.manifest is not None or request.invalid is not None
        return request.name if named else str(request.source)


def fetch_requests(refs: Sequence[str], manifest: Path | None, selection: Selection) -> FetchRequests:
    """The requests for the adapters of REFs, or for a manifest's adapters, of which ``refs`` may name some.

    Raises:
        UsageError: there are no adapters, or the manifest is invalid.
    """
    if manifest is None and refs:
        texts = [one for ref in refs for one in adapters_in(ref).items()]
        requests = tuple(_request(text, replace(selection, latest=is_run)) for text, is_run in texts)
        return FetchRequests(requests, alone=len(requests) == 1)
    adapter_set = read_named_manifest(manifest, refs, "fetch")
    assert adapter_set is not None
    base, entries = adapter_set.base, _named_entries(adapter_set, refs)
    adapters = tuple(replace(one, selection=replace(selection, latest=one.selection.latest)) for one in entries)
    request = None if base is None or base.scheme == "file" else Request(THE_BASE, base, selection=BASE)
    return FetchRequests(adapters, adapter_set, alone=len(adapter_set.adapters) == 1, base=request)


def _request(text: str, selection: Selection) -> Request:
    """The request for one REF; an invalid reference is reported as its outcome, and does not stop the others."""
    typed = without_secrets(text)
    try:
        ref = parse(text, is_path=is_path)
    except UsageError as error:
        return Request(typed, typed, invalid=error)
    return Request(ref.name, ref, selection=selection, written=typed)
