"""Folders outside the cache: ``fetch --to``, and ``fetch --publish`` for an engine's resolver.

Weights are hard links into the cache where the file system has them, everything else is a copy. A folder appears by one
rename, and only a published one is ever replaced: ``MARK_FILE`` in it says what lora-cli wrote there.
"""

import errno
import fcntl
import json
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_cli.errors import Refused, UsageError
from lora_cli.json_schema import Sha256
from lora_cli.parse import json_object
from lora_cli.refs.adapter_files import CONFIG
from lora_cli.refs.snapshot import Blob, Snapshot
from lora_cli.store import Store, is_named
from lora_cli.store.disk import on_disk, read_small, remove_path, replace_file
from lora_cli.store.snapshots import build_directory, is_digest, is_sound, rename_into_place, sha256_of
from lora_cli.text import names, shown

MARK_FILE = ".lora-cli.json"
SCHEMA = "lora_cli/published/1"
LARGEST = 8_000_000
BASE_FIELD = "base_model_name_or_path"
WEIGHTS = (".safetensors", ".bin", ".pt")
LOCK = ".lora-cli-lock"
"""The suffix of the file beside a hidden folder that its process has locked."""


@dataclass(frozen=True, slots=True)
class Published:
    """What was published: the base that its config names.

    ``replaced`` is the digest of other files that were published there before, None for none.
    """

    base: str
    replaced: Sha256 | None = None


@dataclass(frozen=True, slots=True)
class NotPruned:
    """A published folder that is no longer in the manifest and stays because of the ``unlisted`` files in it."""

    name: str
    unlisted: Sequence[str]
    """The files that lora-cli did not publish."""


def publish_adapter(store: Store, snapshot: Snapshot, target: Path, served: str | None) -> Published:
    """Publishes a snapshot as ``target``; ``served`` is the engine's name for the base (None: unknown).

    vLLM's filesystem resolver takes a LoRA adapter only, and only if its config names the base exactly as ``--model``.
    Raises ``Refused`` if it would not, ``FormatError`` if the config cannot be read; else as ``materialize``.
    """
    where = f"{target.name}: {CONFIG}"
    config = json_object(read_small(snapshot.directory / CONFIG, LARGEST) or b"", where)
    named = config.get(BASE_FIELD)
    if config.get("peft_type") != "LORA":
        hint = "a resolver only accepts LORA, and returns 404 for anything else"
        raise Refused(f"{where}: peft_type is {shown(config.get('peft_type'))}", hint=hint)
    if not isinstance(named, str) or served not in {None, named}:
        but = "" if served is None else f", but {shown(served)} is served: a resolver compares them exactly"
        hint = f"if it is the same model, lora-cli repair --base-name {served or 'NAME'} --to DIR writes it into a copy"
        raise Refused(f"{where}: {BASE_FIELD} is {shown(named)}{but}", hint=hint)
    before = mark_of(target).get("snapshot")
    materialize(store, snapshot, target, publish=True)
    return Published(named, before if is_digest(before) and before != snapshot.digest else None)


def materialize(store: Store, snapshot: Snapshot, target: Path, *, publish: bool = False) -> None:
    """Creates the folder ``target`` with the files of a snapshot; one that has exactly these stays as it is.

    With ``publish`` it also has ``MARK_FILE``, and replaces what was published there. Raises ``UsageError`` if other
    content is there, which stays, or a file has the name of the mark; ``LostBlob``, ``MachineError``.
    """
    if publish and MARK_FILE in snapshot.files:
        raise UsageError(f"{target.name} has a file {MARK_FILE}, which is reserved", hint="rename it")
    mark = _mark(snapshot) if publish else None
    with on_disk("writing", target, "--publish" if publish else "--to"):
        if _has(store, snapshot, target, mark):
            return
        _check_free(target, publish)
        with hidden_folder(target) as building:
            build_directory(store, snapshot.files, building, lambda path: path.endswith(WEIGHTS))
            if mark is not None:
                replace_file(building / MARK_FILE, mark)
            while not (rename_into_place(building, target) or _has(store, snapshot, target, mark)):
                _check_free(target, publish)
                with suppress(FileNotFoundError):  # removed meanwhile
                    swap_folders(building, target)
                    if not _in_the_way(building, publish):
                        break
                    swap_folders(building, target)  # Another process has put it there since.


def prune(folder: Path, staying: Collection[str], *, dry_run: bool) -> tuple[list[str], list[NotPruned]]:
    """Removes the published adapters in ``folder`` that are not ``staying``; the names of these, and of what stays.

    Raises ``MachineError``.
    """
    removed, kept = [], []
    with on_disk("cleaning", folder, "--publish"):
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            if path.name in staying or path.name.startswith(".") or path.is_symlink() or not mark_of(path):
                continue
            if unlisted := _in_the_way(path, publish=True):
                kept.append(NotPruned(path.name, unlisted))
                continue
            removed.append(path.name)
            if not dry_run:
                with hidden_folder(path) as hidden:
                    path.rename(hidden)
    return removed, kept


def _mark(snapshot: Snapshot) -> bytes:
    """The content of ``MARK_FILE``, the same for the same files."""
    files = {path: {"sha256": blob.sha256, "bytes": blob.size} for path, blob in sorted(snapshot.files.items())}
    value = {"schema": SCHEMA, "snapshot": snapshot.digest, "sha256": snapshot.digest, "files": files}
    return json.dumps(value, indent=1).encode() + b"\n"


def mark_of(folder: Path) -> Mapping[str, Any]:
    """The content of a folder's mark; empty if there is none."""
    try:
        value = json.loads(read_small(folder / MARK_FILE, LARGEST) or b"")
        return {**value, "files": dict(value["files"])} if value["schema"] == SCHEMA else {}
    except (ValueError, TypeError, KeyError, RecursionError):
        return {}


def _has(store: Store, snapshot: Snapshot, target: Path, mark: bytes | None) -> bool:
    """Whether ``target`` has exactly these files, and the ``mark`` if they are published."""
    if target.is_symlink() or (mark is not None and read_small(target / MARK_FILE, LARGEST) != mark):
        return False
    return _paths(target) == snapshot.files.keys() | ({MARK_FILE} if mark else set()) and all(
        _is_blob(store, target / path, blob, published=mark is not None) for path, blob in snapshot.files.items()
    )


def _is_blob(store: Store, path: Path, blob: Blob, *, published: bool) -> bool:
    """Whether a file has these bytes; its time shows that it is unchanged, and a blob or a mark which one it is."""
    with suppress(FileNotFoundError):
        status, cached = path.stat(follow_symlinks=False), store.blob(blob.sha256).stat()
        is_copy = published and path.name.endswith(WEIGHTS) and status.st_dev != cached.st_dev
        if is_copy or os.path.samestat(status, cached):
            return is_sound(path, blob)
    return sha256_of(path) == blob.sha256


def _check_free(target: Path, publish: bool) -> None:
    if others := _in_the_way(target, publish):
        hint = "it was not changed: move it, or use another folder"
        raise UsageError(f"{target} exists, with other content: {names(others)}", hint=hint)


def _in_the_way(path: Path, publish: bool) -> list[str]:
    """What is there and is not replaced: all but an empty folder, and with ``publish`` the files in its mark."""
    if os.path.lexists(path) and (not path.is_dir() or path.is_symlink()):
        return ["a file or link"]
    return sorted(_paths(path) - ({*mark_of(path).get("files", ()), MARK_FILE} if publish else set()))


def _paths(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir() or path.is_symlink()}


@contextmanager
def hidden_folder(target: Path) -> Iterator[Path]:
    """A new empty hidden folder beside ``target``; what has its name at the end is removed. Raises ``OSError``."""
    lock = target.with_name(f".{target.name[:50]}.{os.urandom(6).hex()}{LOCK}")
    target.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with lock.open("ab") as file:
            with suppress(OSError):  # a file system without locks
                fcntl.flock(file, fcntl.LOCK_EX)
            if not is_named(lock, file.fileno()):
                continue  # ``remove_leftovers`` of another process had it before it was locked
            try:
                lock.with_suffix("").mkdir()
                yield lock.with_suffix("")
            finally:
                remove_path(lock.with_suffix(""))
                remove_path(lock)
            return


def remove_leftovers(folder: Path) -> None:
    """Removes the hidden folders in ``folder`` whose processes were killed, as far as this user may."""
    for lock in folder.glob(f".*{LOCK}"):
        with suppress(OSError), lock.open("rb+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            remove_path(lock.with_suffix(""))
            lock.unlink()


def swap_folders(one: Path, other: Path) -> None:
    """Exchanges two folders in one step; where the system cannot, ``other`` is missing for a moment."""
    import ctypes

    if (rename := getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)) is not None:
        if rename(-100, os.fsencode(one), -100, os.fsencode(other), 2) == 0:  # AT_FDCWD, RENAME_EXCHANGE
            return
        if (number := ctypes.get_errno()) not in {errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EPERM}:
            raise OSError(number, os.strerror(number), str(other))
    with hidden_folder(other) as old:
        other.rename(old)
        try:
            one.rename(other)
        except OSError:
            old.rename(other)
            raise
        old.rename(one)
