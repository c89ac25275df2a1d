"""Published folders outside the cache, for an engine's resolver: replaced as a whole, and only if lora-cli wrote them.

A resolver only accepts LoRA adapters for the base that it serves.
"""

import json
import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lora_cli.core.adapter_files import CONFIG
from lora_cli.core.json_schema import Sha256
from lora_cli.core.parse import json_object
from lora_cli.core.snapshot import Blob, Snapshot
from lora_cli.core.text import names, shown
from lora_cli.errors import FormatError, Refused, UsageError
from lora_cli.store import Store
from lora_cli.store.atomic_swap import exchange, remove_path, replace_folder
from lora_cli.store.blobs import is_sound, sha256_of
from lora_cli.store.disk import on_disk, read_small, replace_file
from lora_cli.store.export import is_weights
from lora_cli.store.locks import locked
from lora_cli.store.snapshots import build_directory, is_digest

MARK_FILE = ".lora-cli.json"
"""The file that marks a published folder, with its contents."""

SCHEMA = "lora_cli/published/1"
LARGEST = 8_000_000
BASE_FIELD = "base_model_name_or_path"
_UNFINISHED = re.compile(r"[0-9a-f]{12}(\.\d+\.\d+\.[0-9a-f]{12})?")


@dataclass(frozen=True, slots=True)
class Published:
    """What was published: the base that its config names.

    ``replaced`` is the digest of other files that were published there before, None for none.
    """

    base: str
    replaced: Sha256 | None = None


def publish_adapter(store: Store, snapshot: Snapshot, target: Path, served: str | None) -> Published:
    """Publishes a snapshot as ``target``; ``served`` is the engine's name for the base (None: unknown).

    vLLM's filesystem resolver accepts an adapter only when its config names the base exactly as ``--model`` does. See
    ``publish`` for what may be replaced, and how.

    Raises:
        Refused: a resolver would not accept it: it is no LoRA adapter, or for another base.
        FormatError: its config cannot be read.
        UsageError, LostBlob, MachineError: see ``publish``.
    """
    where = f"{target.name}: {CONFIG}"
    data = read_small(snapshot.directory / CONFIG, LARGEST)
    if data is None:
        raise FormatError(f"it is missing, or larger than {LARGEST} bytes", where=where)
    config = json_object(data, where)
    if config.get("peft_type") != "LORA":
        raise Refused(
            f"{where}: peft_type is {shown(config.get('peft_type'))}",
            hint="a resolver only accepts LORA, and returns 404 for anything else",
        )
    named = config.get(BASE_FIELD)
    if served is not None and named != served:
        raise Refused(
            f"{where}: {BASE_FIELD} is {shown(named)}, but {shown(served)} is served: a resolver compares them exactly",
            hint=f"if it is the same model, lora-cli repair --base-name {served} --to DIR writes it into a copy",
        )
    if not isinstance(named, str):
        hint = "lora-cli repair --base-name NAME --to DIR writes it into a copy"
        raise Refused(f"{where}: {BASE_FIELD} is {shown(named)}", hint=hint)
    before = str(_read_mark(target).get("snapshot", ""))
    publish(store, snapshot, target)
    return Published(named, before if is_digest(before) and before != snapshot.digest else None)


@dataclass(frozen=True, slots=True)
class NotPruned:
    """A published folder that is no longer in the manifest and stays because of the ``unlisted`` files in it."""

    name: str
    unlisted: Sequence[str]
    """The files that lora-cli did not publish."""


@dataclass(frozen=True, slots=True)
class Pruning:
    """The published adapters that ``--prune`` removes (name → snapshot digest), and those that stay."""

    removed: Mapping[str, str] = field(default_factory=dict)
    kept: Sequence[NotPruned] = ()


def to_prune(folder: Path, staying: Collection[str]) -> Pruning:
    """The published adapters in ``folder`` whose names are not ``staying``; nothing is removed.

    Raises:
        MachineError: a disk error.
    """
    removed, kept = {}, []
    with on_disk("reading", folder, "--publish"):
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            mark = {} if path.name.startswith(".") or path.is_symlink() else _read_mark(path)
            if not mark or path.name in staying:
                continue
            if unlisted := _unlisted(path):
                kept.append(NotPruned(path.name, unlisted))
            else:
                removed[path.name] = str(mark["snapshot"])
    return Pruning(removed, kept)


def prune_published(folder: Path, pruning: Pruning) -> None:
    """Removes what ``to_prune`` found in ``folder``.

    Raises:
        MachineError: a disk error.
    """
    with on_disk("cleaning", folder, "--publish"):
        for path in map(folder.joinpath, pruning.removed):
            hidden = path.with_name(f".{path.name[:100]}.{os.urandom(6).hex()}")
            path.rename(hidden)
            _remove_replaced(hidden, path)


def publish(store: Store, snapshot: Snapshot, target: Path) -> None:
    """Publishes the folder ``target`` in one step, replacing an earlier one; an identical one stays.

    Weights are hard links to the cache where the file system supports them, else copies; all other files are copies.
    Leftovers of dead processes next to ``target`` are removed.

    Raises:
        UsageError: something is there that lora-cli did not publish; it stays. Or a file has the name of the mark.
        LostBlob: a blob is no longer in the cache.
        MachineError: a disk error.
    """
    if MARK_FILE in snapshot.files:
        raise UsageError(f"{target.name} has a file {MARK_FILE}, which is reserved", hint="rename it")
    with on_disk("writing", target, "--publish"):
        if _is_published(snapshot, target):
            return
        _check_replaceable(target)
        prefix = f".{target.name[:100]}."
        with locked(target.with_name(f"{prefix}lock")) as held:
            if held:
                _remove_leftovers(target.parent, prefix)
            building = target.with_name(f"{prefix}{os.urandom(6).hex()}")
            try:
                _build(store, snapshot, building)
                old = replace_folder(building, target, prefix)
            except BaseException:
                remove_path(building)
                raise
            if old is not None:
                _remove_replaced(old, target)


def _mark(snapshot: Snapshot) -> bytes:
    """The content of ``MARK_FILE``, the same for the same files."""
    files = {path: {"sha256": blob.sha256, "bytes": blob.size} for path, blob in sorted(snapshot.files.items())}
    value = {"schema": SCHEMA, "snapshot": snapshot.digest, "sha256": snapshot.digest, "files": files}
    return json.dumps(value, indent=1).encode() + b"\n"


def _build(store: Store, snapshot: Snapshot, directory: Path) -> None:
    build_directory(store, snapshot.files, directory, is_weights)
    replace_file(directory / MARK_FILE, _mark(snapshot))


def _remove_replaced(old: Path, target: Path) -> None:
    """Removes the replaced folder. If another process has put it there since the check, it is moved back.

    Raises:
        UsageError: it was not published by lora-cli.
    """
    if not _is_replaceable(old):
        if not exchange(old, target):
            raise UsageError(f"{target} was not published by lora-cli: it was moved to {old}")
        remove_path(old)
        _check_replaceable(target)
    remove_path(old)


def _check_replaceable(target: Path) -> None:
    if not os.path.lexists(target) or _is_replaceable(target):
        return
    ours = target.is_dir() and not target.is_symlink() and _read_mark(target)
    if ours and (unlisted := _unlisted(target)):
        raise UsageError(
            f"{target} was published by lora-cli, but has other files by now: {names(unlisted)}",
            hint="it was not changed: move or remove these files, then try again",
        )
    raise UsageError(
        f"{target} exists and was not published by lora-cli",
        hint="it was not changed: move it, or use another folder with --publish",
    )


def _is_replaceable(path: Path) -> bool:
    """Whether it may be replaced: an empty folder, or one with only files that were published there."""
    if not path.is_dir() or path.is_symlink():
        return False
    found = _paths(path)
    return not found or (MARK_FILE in found and not _unlisted(path))


def _unlisted(folder: Path) -> list[str]:
    """The files in a published folder that are not in its mark."""
    return sorted(_paths(folder) - _read_mark(folder).get("files", {}).keys() - {MARK_FILE})


def _paths(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir() or path.is_symlink()}


def _read_mark(folder: Path) -> Mapping[str, Any]:
    """The content of a folder's mark; empty if there is none."""
    try:
        value = json.loads(read_small(folder / MARK_FILE, LARGEST) or b"")
        known = {"files": dict(value["files"]), "snapshot": value["snapshot"]}
        return known if value["schema"] == SCHEMA else {}
    except (ValueError, TypeError, KeyError, RecursionError):
        return {}


def _is_published(snapshot: Snapshot, target: Path) -> bool:
    """Whether ``target`` has this snapshot already. Copied weights are recognised by their time, as blobs are."""
    files = snapshot.files
    if target.is_symlink() or read_small(target / MARK_FILE, LARGEST) != _mark(snapshot):
        return False
    return _paths(target) == files.keys() | {MARK_FILE} and all(
        _is_unchanged(target / path, blob) for path, blob in files.items()
    )


def _is_unchanged(path: Path, blob: Blob) -> bool:
    if is_weights(path.name):
        return is_sound(path, blob)
    return not path.is_symlink() and sha256_of(path) == blob.sha256


def _remove_leftovers(folder: Path, prefix: str) -> None:
    """Removes unfinished folders of this name: who writes one has the lock of the name."""
    for path in folder.iterdir():
        if path.name.startswith(prefix) and _UNFINISHED.fullmatch(path.name.removeprefix(prefix)):
            remove_path(path)
