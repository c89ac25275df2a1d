"""The inputs of a command: adapters, base and limits, from the command line and the manifest."""

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from lora_cli.cli.output import to_stderr
from lora_cli.core.adapter_files import CONFIG, WEIGHTS_STEM
from lora_cli.core.adapter_request import Item
from lora_cli.core.addresses import hub_words, without_secrets
from lora_cli.core.base_model import BaseModel
from lora_cli.core.did_you_mean import did_you_mean
from lora_cli.core.lock import THE_BASE, ref_at
from lora_cli.core.reference import LATEST, AdapterRef, checked_checkpoint, folder_of, override, parse
from lora_cli.core.text import counted, cut, names, safe
from lora_cli.errors import AccessDenied, FormatError, LoraCliError, NotFound, Unreachable, UsageError
from lora_cli.fetching.context import AdapterRequest
from lora_cli.fetching.file_selection import BASE, USUAL, Selection
from lora_cli.fetching.requirements import Demand
from lora_cli.settings import Settings

if TYPE_CHECKING:
    from lora_cli.documents.manifest import AdapterEntry, AdapterSet, EngineSpec
    from lora_cli.runtime.plan import Limits
    from lora_cli.validation import Checked

MAX_LORAS, MAX_CPU_LORAS = 8, 32
"""How many slots and places in memory there are at most, if not given."""


@dataclass(frozen=True, slots=True)
class Lineup:
    """The adapters in the order asked for, their base, and the manifest that they are from, if any.

    ``has_lock`` is whether its lock is there; None where there is no manifest, or no place for its lock.
    """

    items: tuple[Item, ...]
    base: str | AdapterRef
    manifest: "AdapterSet | None" = None
    has_lock: bool | None = None

    @property
    def engine(self) -> "EngineSpec | None":
        """The engine that the manifest is for."""
        return self.manifest.engine if self.manifest is not None else None

    def to_judge(self, settings: Settings, *, digests: bool = False) -> list[Item]:
        """The adapters as ``check_all`` takes them: by their names in a manifest, and with the digests that must hold.

        With ``digests`` that is what the manifest says even where neither a policy nor a lock is: all bytes are read.
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


def manifest_of(
    file: Path | None, refs: Sequence[str], verb: str, *, may_be_empty: bool = False
) -> "AdapterSet | None":
    """The adapter set of ``-f``, None without it; one of REFs and a set is wanted, unless there may be none.

    Raises:
        UsageError: neither, or a manifest that is wrong, or a REF is no name in it.
    """
    if file is None:
        if not refs and not may_be_empty:
            raise UsageError(f"there is nothing to {verb}", hint="add adapters, or an adapter set with -f")
        return None
    from lora_cli.reading.manifest import read_manifest

    manifest = read_manifest(file)
    known = [entry.name for entry in manifest.adapters]
    for name in (name for name in refs if name not in known):
        raise UsageError(f"{manifest.file} has no adapter {safe(name)!r}", hint=did_you_mean(name, known))
    return manifest


def lineup(
    file: Path | None,
    refs: Sequence[str],
    base: str,
    verb: str,
    checkpoint: str = "",
    *,
    may_be_empty: bool = False,
) -> Lineup:
    """Adapters and base by what is on the command line; ``base`` overrides the manifest's, and there may be none ("").

    With a manifest ``refs`` are names in it. With ``may_be_empty`` there may be no adapters. A lock next to the
    manifest pins those of its adapters that it still speaks of, as ``fetch`` does.

    Raises:
        UsageError: there are no adapters, or the manifest or its lock is wrong.
    """
    manifest = manifest_of(file, refs, verb, may_be_empty=may_be_empty)
    named = base or (manifest.base if manifest is not None else None) or ""
    if manifest is None:
        return Lineup(from_refs(refs, checkpoint), named)
    if checkpoint:
        raise UsageError("--checkpoint is for REFs", hint="write it into the manifest: checkpoint: latest")
    from lora_cli.cli.lockfile import open_lock
    from lora_cli.documents.lockfile import base_mismatch
    from lora_cli.reading.manifest import items_of, locked_adapters

    assert file is not None
    lock_file = open_lock(file, LockFlags())
    lock = lock_file.lock if lock_file is not None else None
    locked = locked_adapters(manifest, lock) if lock is not None else {}
    if lock is not None and lock.base is not None and not base and not base_mismatch(manifest, lock.base):
        assert manifest.base is not None
        named = ref_at(manifest.base, lock.base)
    has_lock = lock is not None if lock_file is not None else None
    return Lineup(items_of(_chosen(manifest, refs), locked), named, manifest, has_lock)


def unlocked(asked: Lineup, *, without_lock: bool = False) -> str:
    """Which adapters are what their origin has at this moment, since the lock lacks or contradicts them; "" for none.

    Where there is no lock at all, nobody is told unless ``without_lock``.
    """
    moving = [
        item.name
        for item in asked.items
        if isinstance(item.source, AdapterRef)
        and item.source.scheme != "file"
        and not (item.locked or item.sha256 or item.source.pinned)
    ]
    if not moving or asked.manifest is None or not (asked.has_lock or (without_lock and asked.has_lock is False)):
        return ""
    file, are = asked.manifest.file, "is" if len(moving) == 1 else "are"
    told = f"{counted(len(moving), 'adapter')} of {file} {are} not locked: {names(moving)}"
    return safe(f"warning: {told}; lora-cli fetch -f {shlex.quote(file)} locks them")


def warn_of_unlocked(asked: Lineup, settings: Settings, *, without_lock: bool = False) -> None:
    """Say it on standard error."""
    if not settings.quiet and (told := unlocked(asked, without_lock=without_lock)):
        to_stderr(told)


def _chosen(manifest: "AdapterSet", names: Sequence[str]) -> "list[AdapterEntry]":
    """The adapters of a set that are named; all where none is."""
    return [entry for entry in manifest.adapters if not names or entry.name in names]


def with_base(asked: Lineup, command: str, settings: Settings) -> Lineup:
    """``asked`` with a base: the given one, else the repository or folder that the adapters' configs name.

    Raises:
        UsageError: they name none, or several, or what is neither a repository of the Hub nor a folder here.
        Refused: a policy does not allow that base.
        LoraCliError: none of the adapters can be read, or none is an adapter.
    """
    if asked.base:
        return asked
    from lora_cli.fetching.requirements import ANYTHING, check_reference
    from lora_cli.validation import read_all, ref_of

    hint = "--base DIRECTORY, config.json or ORG/NAME"
    named, errors = dict[str, str](), list[LoraCliError]()
    for one in read_all(asked.to_judge(settings), settings, weights=False):
        config = one.adapter.config if one.adapter is not None else None
        if config is not None and config.base_model_name_or_path:
            named.setdefault(config.base_model_name_or_path, one.name)
        if (error := one.error or _no_adapter(one)) is not None:
            errors.append(error)
    if len(named) > 1:
        told = " and ".join(f"{safe(cut(base))} ({safe(name)})" for base, name in list(named.items())[:2])
        raise UsageError(f"the adapters are for several bases: {told}", hint=f"select some of them, or set {hint}")
    if not named:
        raise errors[0] if errors else UsageError(f"{command} needs a base model, but no config has one", hint=hint)
    base = next(iter(named))
    if not (hub_words(base) or Path(base).is_dir()):
        told = safe(cut(base))
        raise UsageError(f"{command} needs a base model: {told} of the config is not on this machine", hint=hint)
    # Whoever wrote the adapter chose it.
    check_reference(ANYTHING, ref_of(base), settings)
    if not settings.quiet:
        to_stderr(safe(f"base: {base} (from the adapter's config)"))
    return replace(asked, base=base)


def _no_adapter(one: "Checked") -> LoraCliError | None:
    """That what was read is no adapter of PEFT at all: it has neither a config nor weights."""
    adapter = one.adapter
    if adapter is None or adapter.config is not None or adapter.config_error is not None or adapter.weight_files:
        return None
    if adapter.foreign is not None:
        said, hint = f"this is {adapter.foreign.format.title}, and no adapter", adapter.foreign.format.advice
    else:
        from lora_cli.fetching.file_selection import adapter_folders_hint

        said = f"neither {CONFIG} nor adapter_model.safetensors is here"
        hint = adapter_folders_hint(file.path for file in adapter.files)
    return FormatError(said, where=one.name, hint=hint)


def from_refs(refs: Sequence[str], checkpoint: str = "") -> tuple[Item, ...]:
    """Each REF once, or its ``checkpoint``; invalid references stay as they are, and are reported when they are used.

    A file of an adapter stands for its folder: that is how hooks and globs of a shell name what changed.

    Raises:
        UsageError: there is no such checkpoint.
    """
    named = dict.fromkeys(map(_folder_of, refs))
    if not checkpoint:
        return tuple(Item(without_secrets(ref), ref) for ref in named)
    folder = checkpoint_folder(checkpoint)
    return tuple(Item(without_secrets(ref), _in_folder(ref, folder), latest=not folder) for ref in named)


def _folder_of(text: str) -> str:
    path = Path(text)
    is_part = path.name == CONFIG or path.name.startswith(WEIGHTS_STEM) or path.suffix == ".safetensors"
    return str(path.parent) if is_part and path.is_file() else text


def _in_folder(text: str, folder: str) -> str | AdapterRef:
    from lora_cli.validation.validate import is_path

    try:
        return override(parse(text, is_path=is_path), subfolder=folder)
    except UsageError:
        return text


def reaching(settings: Settings, manifest: "AdapterSet | None", policy: Path | None = None) -> Settings:
    """``settings`` with the manifest's rules for how origins are reached, and what it and ``--policy`` allow.

    Raises:
        UsageError: what is wrong in the policy file, with line and key.
    """
    if manifest is not None or policy is not None:
        from lora_cli.reading.manifest import with_policies

        settings = with_policies(settings, manifest, policy)
    if settings.suppressions:
        from lora_cli.validation.baseline import check_rules

        check_rules(settings.suppressions)
    return settings


def base_model(named: str | AdapterRef, settings: Settings) -> BaseModel:
    """The base model that ``named`` means; for a family without a table transformers is used, if installed."""
    from lora_cli.runtime.module_tree import base_from_transformers
    from lora_cli.validation import open_base

    try:
        return open_base(named, settings, fallback=base_from_transformers)
    except (NotFound, AccessDenied, Unreachable) as error:
        hint = f"this is the base model: --base also takes a folder or a config.json; {error.hint}"
        raise type(error)(error.message, hint=hint) from error


def check_max_cpu_loras(max_cpu_loras: int | None, max_loras: int | None) -> None:
    """Checks that memory has at least as many places as slots, as in vLLM.

    Raises:
        UsageError: it holds less.
    """
    if max_cpu_loras is not None and max_loras is not None and max_cpu_loras < max_loras:
        raise UsageError(
            f"--max-cpu-loras is {max_cpu_loras}, less than max_loras, which is {max_loras}",
            hint=f"--max-cpu-loras {max_loras}",
        )


def limits(
    asked: Lineup,
    max_loras: int | None,
    max_cpu_loras: int | None,
    max_lora_rank: int | None,
    *,
    more_may_come: bool = False,
    max_cpu_bytes: int | None = None,
) -> "Limits":
    """Flags, else the manifest's engine, else as many as there are adapters, up to a bound, or to it if more may come.

    The engine's ``max_cpu_loras`` is for the memory of its own machine: where fewer fit here, there are fewer.

    Raises:
        UsageError: the flags say that memory holds less than the slots do.
    """
    from lora_cli.runtime.plan import Limits

    engine, count = asked.engine, MAX_CPU_LORAS if more_may_come else len(asked.items)
    loras = max_loras or (engine and engine.max_loras) or min(MAX_LORAS, count)
    check_max_cpu_loras(max_cpu_loras, loras)
    cpu_loras = max_cpu_loras or max(loras, (engine and engine.max_cpu_loras) or min(MAX_CPU_LORAS, count))
    rank = max_lora_rank or (engine.max_lora_rank if engine is not None else None)
    return Limits(loras, cpu_loras, rank or 0, fewer_places=max_cpu_loras is None, max_cpu_bytes=max_cpu_bytes)


@dataclass(frozen=True, slots=True)
class Order:
    """The adapters in the order asked for, and the manifest that they are from, if any.

    ``base`` is the manifest's, of which the config is fetched to be locked; None if that is a path. ``alone`` says that
    one was asked for and no more, as ``--to`` needs to know even where a shard has only one.
    """

    adapters: tuple[AdapterRequest, ...]
    manifest: "AdapterSet | None" = None
    alone: bool = False
    base: AdapterRequest | None = None

    def key(self, request: AdapterRequest) -> str:
        """What distinguishes an adapter from the others: its name in the manifest, else its reference."""
        named = self.manifest is not None or isinstance(request.parsed, UsageError)
        return request.name if named else str(request.parsed)


@dataclass(frozen=True, slots=True)
class LockFlags:
    """The options for a manifest's lock: its file, and whether it is fixed, checked or updated.

    ``some`` says that only some of the manifest's adapters were named.
    """

    lock: Path | None = None
    locked: bool = False
    check: bool = False
    upgrade: bool = False
    some: bool = False

    @property
    def given(self) -> list[str]:
        """The options that were given."""
        return [name for name in ("lock", "locked", "check", "upgrade") if getattr(self, name)]


def check_flags(flags: LockFlags, manifest: Path | None, *, chosen: bool) -> None:
    """Checks that the flags are compatible; ``chosen`` says that files were chosen.

    Raises:
        UsageError: they do not.
    """
    if manifest is None and flags.given:
        raise UsageError(f"--{flags.given[0]} is for an adapter set", hint="set it with -f")
    exclusive = [name for name in flags.given if name != "lock"]
    if len(exclusive) > 1:
        raise UsageError(f"--{exclusive[0]} and --{exclusive[1]} cannot be used together", hint="remove one of them")
    if flags.locked and chosen:
        raise UsageError("--locked uses the files of the lock", hint="remove --include and --exclude")


def order(
    refs: Sequence[str],
    manifest: Path | None,
    selection: Selection = USUAL,
    *,
    revision: str | None = None,
    subfolder: str = "",
    checkpoint: str = "",
) -> Order:
    """The files of ``selection`` that are to be fetched: of REFs, or of a manifest's adapters, which ``refs`` may name.

    A ``checkpoint`` by number is a folder in each REF; the latest one is known when its origin has been asked.

    Raises:
        UsageError: neither, options of the other one, or a manifest that is wrong.
    """
    if manifest is not None and (revision is not None or subfolder or checkpoint):
        hint = "write them into the manifest: source: hf://ORG/NAME/FOLDER@REVISION, checkpoint: latest"
        raise UsageError("--revision, --subfolder and --checkpoint are for REFs", hint=hint)
    folder = f"{subfolder.rstrip('/')}/{checkpoint_folder(checkpoint)}".strip("/") if checkpoint else subfolder
    if manifest is None and refs:
        selection = replace(selection, latest=checkpoint == LATEST)
        return Order(tuple(_asked(text, revision, folder, selection) for text in refs), alone=len(refs) == 1)
    adapter_set = manifest_of(manifest, refs, "fetch")
    assert adapter_set is not None
    entries = tuple(
        AdapterRequest(
            entry.source, entry.name, replace(selection, latest=entry.checkpoint == LATEST), Demand(entry.sha256)
        )
        for entry in _chosen(adapter_set, refs)
    )
    base = adapter_set.base
    wanted = None if base is None or base.scheme == "file" else AdapterRequest(base, THE_BASE, BASE)
    return Order(entries, adapter_set, alone=len(adapter_set.adapters) == 1, base=wanted)


def checkpoint_folder(checkpoint: str) -> str:
    """The folder that ``--checkpoint`` asks for, "" for the latest one and for none.

    Raises:
        UsageError: it is neither a number nor ``latest``.
    """
    try:
        return folder_of(checked_checkpoint(checkpoint)) if checkpoint else ""
    except ValueError as error:
        raise UsageError(f"--checkpoint {error}", hint="--checkpoint latest") from error


def _asked(text: str, revision: str | None, subfolder: str, selection: Selection) -> AdapterRequest:
    """What one word asks for; what is no reference is an outcome of its own, and stops no other one."""
    typed = without_secrets(text)
    try:
        ref = override(parse(text, is_path=os.path.lexists), revision=revision, subfolder=subfolder)
    except UsageError as error:
        return AdapterRequest(error, typed)
    return AdapterRequest(ref, ref.name, selection, typed=typed)
