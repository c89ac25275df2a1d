"""The lock of a manifest: read before a fetch, updated after it, and compared with the origins by ``--check``."""

import hashlib
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from lora_cli.base.reading import local_config
from lora_cli.cli.adapter_selection import FetchRequests, LockFlags
from lora_cli.cli.output import Format, inform, render_parts, to_stderr, write
from lora_cli.documents.document import STDIN, read_text
from lora_cli.documents.lockfile import (
    KIND,
    base_mismatch,
    config_files,
    drift,
    dump_lock,
    lock_path,
    locked_adapters,
    mismatch,
    read_lock,
    relocked,
)
from lora_cli.documents.manifest import AdapterSet
from lora_cli.errors import LoraCliError, MachineError, NotFound, Refused, UsageError
from lora_cli.fetching.batch import Outcome
from lora_cli.fetching.lock_drift import CheckedAdapter, checked_adapter, find_drift
from lora_cli.refs.lock import THE_BASE, Lock, LockedAdapter, ref_at
from lora_cli.refs.reference import AdapterRef
from lora_cli.refs.request import Request
from lora_cli.render.fetch_report import CheckReport, LockChanges, lock_changes
from lora_cli.render.json import to_json
from lora_cli.render.terminal_fetch import drift_parts, render_changes, render_drift, render_drift_error
from lora_cli.settings import Settings
from lora_cli.sources.registry import endpoint_of
from lora_cli.store import Store
from lora_cli.store.disk import on_disk, replace_file
from lora_cli.store.locks import exclusive
from lora_cli.text import names


@dataclass(frozen=True, slots=True)
class LockFile:
    """The lock file of an adapter set; ``lock`` is None if the file does not exist yet."""

    path: Path
    lock: Lock | None
    adapter_set: AdapterSet


def open_lock(manifest: Path, adapter_set: AdapterSet, flags: LockFlags) -> LockFile | None:
    """The lock of a manifest, next to it; None for a manifest that is not a regular file.

    Raises:
        UsageError: an option of a lock for a manifest without a folder, or a lock that is wrong.
        NotFound: ``--locked``, and there is none.
    """
    if str(manifest) == STDIN or not manifest.is_file():
        if flags.given:
            raise UsageError(f"{manifest} has no folder for its lock", hint="write the manifest to a file")
        return None
    place = lock_path(manifest)
    lock = _read(place, flags, str(manifest))
    if lock is None and flags.locked:
        raise NotFound(f"there is no lock {place}", hint=f"lora-cli fetch -f {manifest} writes it")
    return LockFile(place, lock, adapter_set)


def _read(path: Path, flags: LockFlags, manifest: str) -> Lock | None:
    """The lock in a file; None if there is no file, or if the lock is invalid and will be rewritten as a whole."""
    try:
        return read_lock(path, manifest)
    except NotFound:
        return None
    except UsageError:
        # A file of this name that is no lock is not overwritten.
        text = read_text(path, "lock")
        if not flags.upgrade or flags.some or (text.strip() and KIND not in text):
            raise
        return None


def apply_lock(requests: FetchRequests, file: LockFile, flags: LockFlags) -> FetchRequests:
    """``requests`` with each adapter at its locked version.

    With ``--locked`` these are all adapters. Otherwise adapters that do not match the lock, that are to be upgraded, or
    that are local folders (which have no revision to stay at) are fetched as they are now.

    Raises:
        UsageError: a locked revision is invalid.
        Refused: ``--locked``, and lock and manifest disagree.
        MachineError: the lock will have to be written, and its folder is not writable.
    """
    lock, manifest = file.lock or {}, file.adapter_set.file
    if flags.locked and (found := [*drift(file.adapter_set, lock), *_base_drift(file.adapter_set, lock)]):
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        hint = f"lora-cli fetch -f {manifest} updates the lock"
        raise Refused(f"{file.path} does not match {manifest}: {found[0]}{more}", hint=hint)
    known, locked = locked_adapters(file.adapter_set, lock), _locked_versions(file.adapter_set, lock, flags)
    adapters = (
        replace(
            one,
            source=ref_at(one.ref, known[one.name])
            if one.name in known and not known[one.name].revision
            else one.source,
            locked=locked.get(one.name),
        )
        for one in requests.adapters
    )
    base = _locked_base(requests.base, lock, file.adapter_set, flags)
    requests = replace(requests, adapters=tuple(adapters), base=base)
    if not (flags.locked or flags.check):
        _check_writable(requests, file)
    return requests


def _locked_base(request: Request | None, lock: Lock, adapter_set: AdapterSet, flags: LockFlags) -> Request | None:
    """The base that is to be locked, or compared with its lock; None where it stays as it is locked.

    Raises:
        UsageError: the locked revision is invalid.
    """
    locked = lock.get(THE_BASE)
    if request is None or flags.locked:
        return None
    if locked is None or base_mismatch(adapter_set, locked) or (flags.upgrade and not flags.some):
        return request
    ref_at(request.ref, locked)
    return replace(request, locked=locked) if flags.check and locked.revision else None


def _base_drift(adapter_set: AdapterSet, lock: Lock) -> Iterator[str]:
    """Why the locked base is not the manifest's, in one sentence; nothing when it is, or has no config to lock.

    Raises:
        FormatError, MachineError: the config of a local base cannot be read.
    """
    locked = lock.get(THE_BASE)
    said = base_mismatch(adapter_set, locked)
    path = _base_path(adapter_set)
    here = local_config(path) if path is not None else None
    if path is not None and here is None and locked is None and (path.exists() or path.suffix == ".safetensors"):
        return
    if said:
        yield said
    elif here is not None and locked is not None and locked.files != config_files(here):
        yield f"{THE_BASE} has other bytes than the locked ones"


def _base_path(adapter_set: AdapterSet) -> Path | None:
    """The path of the manifest's base, if it is one."""
    base = adapter_set.base
    return Path(base.location) if base is not None and base.scheme == "file" else None


def tell_endpoints(requests: FetchRequests, file: LockFile, settings: Settings) -> None:
    """Says in one line which adapters come from another server than when they were locked; their digests decide."""
    lock, moved = file.lock or {}, dict[tuple[str, str], list[str]]()
    known = {**locked_adapters(file.adapter_set, lock), THE_BASE: lock.get(THE_BASE)}
    for request in (*requests.adapters, *((requests.base,) if requests.base is not None else ())):
        locked = known.get(request.name)
        if locked is None or request.ref.scheme == "file" or (request.name == THE_BASE and not request.locked):
            continue
        if (now := endpoint_of(request.ref, settings)) != locked.endpoint:
            moved.setdefault((locked.endpoint, now), []).append(request.name)
    if moved:
        told = (f"{names(found)}: locked from {was}, now from {now}" for (was, now), found in moved.items())
        inform(f"other endpoints than in {file.path}: {'; '.join(told)}", settings)


def _locked_versions(adapter_set: AdapterSet, lock: Lock, flags: LockFlags) -> Mapping[str, LockedAdapter]:
    """The adapters that stay at their locked version, by name.

    Raises:
        UsageError: a locked revision is invalid.
    """
    if flags.upgrade:
        return {}
    locked = locked_adapters(adapter_set, lock)
    if flags.locked or flags.check:
        return locked
    sources = {entry.name: entry.ref for entry in adapter_set.adapters}
    return {name: one for name, one in locked.items() if ref_at(sources[name], one).scheme != "file"}


def _check_writable(requests: FetchRequests, file: LockFile) -> None:
    """Checks before the fetch that a lock that will change can be written.

    Raises:
        MachineError: its folder is not writable.
    """
    every = (*requests.adapters, *((requests.base,) if requests.base is not None else ()))
    new = [request.source for request in every if request.locked is None]
    if file.lock is not None and all(isinstance(ref, AdapterRef) and ref.scheme == "file" for ref in new):
        return
    folder = Path(os.path.realpath(file.path)).parent
    if not (folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)):
        raise MachineError(
            f"{file.path}: the lock cannot be written there",
            hint="--locked uses an existing lock and writes nothing",
        )


def write_lock(
    file: LockFile,
    flags: LockFlags,
    outcomes: Iterable[Outcome],
    base: Outcome | None,
    store: Store,
    settings: Settings,
) -> LockChanges:
    """Updates the lock with the fetched versions, and returns the changes; the file is replaced only if it changes.

    ``base`` is the outcome for the base's config, if that was fetched; a local one is read here. Entries of adapters
    that failed, of other shards, and those that another process wrote meanwhile stay.

    Raises:
        MachineError: it cannot be written.
        UsageError: another process replaced it by something that is not a lock.
    """
    new = dict(_newly_locked(file.adapter_set, outcomes, settings))
    new |= dict(_locked_config(file.adapter_set, base, settings))
    path = Path(os.path.realpath(file.path))
    with exclusive(store, hashlib.sha256(os.fsencode(path)).hexdigest(), settings.timeout_s):
        now = _read(path, flags, file.adapter_set.file) or {}
        after = relocked(file.adapter_set, now, new)
        if dump_lock(after) != dump_lock(now):
            with on_disk("writing", file.path, "-f"):
                replace_file(path, dump_lock(after).encode("ascii"))
    changes = lock_changes(file.path, now, after)
    if (changes.added or changes.changed or changes.removed) and not settings.quiet:
        to_stderr(render_changes(changes, now, after))
    return changes


def _newly_locked(
    adapter_set: AdapterSet, outcomes: Iterable[Outcome], settings: Settings
) -> Iterator[tuple[str, LockedAdapter]]:
    """The lock entries of fetched adapters, by name, where they differ from the lock."""
    entries = {entry.name: entry for entry in adapter_set.adapters}
    for outcome in outcomes:
        request, fetched, entry = outcome.request, outcome.fetched, entries[outcome.request.name]
        if fetched is not None:
            # A folder's revision is made of times, which another machine cannot check.
            is_folder, files = request.ref.scheme == "file", fetched.snapshot.files
            revision, endpoint = ("", "") if is_folder else (fetched.revision, endpoint_of(request.ref, settings))
            locked = LockedAdapter(request.name, entry.written, revision, files, endpoint)
            if locked != request.locked:
                yield request.name, locked


def _locked_config(
    adapter_set: AdapterSet, outcome: Outcome | None, settings: Settings
) -> Iterator[tuple[str, LockedAdapter]]:
    """The lock entry of the base, by its fetched or local config; nothing, with a warning, if that cannot be read."""
    path, revision, endpoint = _base_path(adapter_set), "", ""
    if outcome is not None and outcome.fetched is not None:
        path, revision = outcome.fetched.snapshot.directory, outcome.fetched.revision
        endpoint = endpoint_of(outcome.request.ref, settings)
    try:
        data = local_config(path) if path is not None else None
    except LoraCliError as error:
        inform(f"warning: {THE_BASE} is not locked: {error.message}", settings)
        return
    if data is not None:
        source, files, text = adapter_set.base_written, config_files(data), data.decode()
        yield THE_BASE, LockedAdapter(THE_BASE, source, revision, files, endpoint=endpoint, config=text)


def report_drift(
    requests: FetchRequests, file: LockFile, settings: Settings, output_format: Format, *, some: bool
) -> int:
    """Writes what differs from the lock: a line for each adapter in a pipe, a table on a terminal.

    With ``some``, only of the adapters that were named. Returns the exit code: 1 for drift, else that of the error of
    an origin that could not be checked.
    """
    lock = file.lock or {}
    done: list[CheckedAdapter] = []
    in_a_pipe = output_format == "human" and not sys.stdout.isatty()
    for one in _drifts(requests, lock, file.adapter_set, settings, base=not some):
        done.append(one)
        if output_format == "human" and one.error is not None:
            to_stderr(render_drift_error(one))
        elif in_a_pipe and (one.drift or not settings.quiet):
            write(render_drift(one))
    known = {entry.name for entry in file.adapter_set.adapters}
    known |= {THE_BASE} if file.adapter_set.base is not None else set()
    removed = [] if some else [name for name in lock if name not in known]
    code = max([one.exit_code for one in done] + [int(bool(removed))])
    report = CheckReport(lock=str(file.path), adapters=done, left_over=removed, exit_code=code)
    if output_format == "json":
        write(to_json(report))
    elif in_a_pipe:
        write("".join(f"{name}: is locked but not in the manifest\n" for name in removed))
    elif report.exit_code or not settings.quiet:
        write(render_parts(drift_parts(report)))
    return report.exit_code


def _drifts(
    requests: FetchRequests, lock: Lock, adapter_set: AdapterSet, settings: Settings, *, base: bool
) -> Iterator[CheckedAdapter]:
    """The drift of each adapter in order, then of the ``base``; no origin is asked where lock and manifest differ."""
    entries = {entry.name: entry for entry in adapter_set.adapters}
    looked = find_drift([one for one in requests.adapters if one.locked is not None], settings)
    for request in requests.adapters:
        if request.locked is not None:
            yield next(looked)
        else:
            difference = mismatch(entries[request.name], lock.get(request.name))
            yield checked_adapter(request, (difference.removeprefix(f"{request.name} "),))
    if base and requests.base is not None and requests.base.locked is not None:
        # Policies about adapters do not apply to the base.
        yield from find_drift([requests.base], replace(settings, policies=()))
    elif base and adapter_set.base is not None:
        found = [one.removeprefix(f"{THE_BASE} ") for one in _base_drift(adapter_set, lock)]
        if found or THE_BASE in lock:
            request = Request(THE_BASE, adapter_set.base, locked=lock.get(THE_BASE))
            yield checked_adapter(request, [f"{one}; lora-cli fetch -f {adapter_set.file} locks it" for one in found])
