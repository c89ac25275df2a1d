"""The lock of a manifest: read before a fetch, updated after it, and compared with the origins by ``--check``."""

import hashlib
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from lora_cli.cli.adapter_selection import FetchRequests, LockFlags
from lora_cli.cli.output import Format, render_parts, to_stderr, write
from lora_cli.core.adapter_request import AdapterRequest
from lora_cli.core.lock import THE_BASE, Changes, Lock, LockedAdapter, of_manifest, ref_at
from lora_cli.core.reference import AdapterRef
from lora_cli.documents.lockfile import KIND, base_mismatch, drift, dump_lock, mismatch, relocked
from lora_cli.documents.manifest import AdapterSet
from lora_cli.errors import MachineError, NotFound, Refused, UsageError
from lora_cli.fetching.batch import Outcome
from lora_cli.fetching.lock_drift import CheckedAdapter, checked_adapter, find_drift
from lora_cli.reading.manifest import STDIN, lock_path, locked_adapters, read_lock, read_text
from lora_cli.render.fetch_report import CheckReport
from lora_cli.render.json import to_json
from lora_cli.render.terminal_fetch import drift_parts, render_changes, render_drift, render_drift_error
from lora_cli.settings import Settings
from lora_cli.store import Store
from lora_cli.store.disk import on_disk, replace_file
from lora_cli.store.leases import lease


@dataclass(frozen=True, slots=True)
class LockFile:
    """The lock file of an adapter set; ``lock`` is None if the file does not exist yet."""

    path: Path
    lock: Lock | None
    adapter_set: AdapterSet


def open_lock(manifest: Path, adapter_set: AdapterSet, flags: LockFlags) -> LockFile | None:
    """The lock of a manifest: ``--lock``, else the file next to it; None for a manifest that is not a regular file.

    Raises:
        UsageError: an option of a lock for a manifest without a folder, or a lock that is wrong.
        NotFound: ``--locked``, and there is none.
    """
    place = flags.lock or (lock_path(manifest) if str(manifest) != STDIN and manifest.is_file() else None)
    if place is None:
        if flags.given:
            raise UsageError(f"{manifest} has no folder for its lock", hint="set a file with --lock")
        return None
    lock = _read(place, flags)
    if lock is None and flags.locked:
        raise NotFound(f"there is no lock {place}", hint=f"lora-cli fetch -f {manifest} writes it")
    return LockFile(place, None if lock is None else of_manifest(lock, str(manifest)), adapter_set)


def _read(path: Path, flags: LockFlags) -> Lock | None:
    """The lock in a file; None if there is no file, or if the lock is invalid and will be rewritten as a whole."""
    try:
        return read_lock(path)
    except NotFound:
        return None
    except UsageError:
        # --lock may name another file by mistake, such as the manifest: it is not overwritten.
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
    lock, manifest = file.lock or Lock(()), file.adapter_set.file
    if flags.locked and (found := list(drift(file.adapter_set, lock))):
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


def _locked_base(
    request: AdapterRequest | None, lock: Lock, adapter_set: AdapterSet, flags: LockFlags
) -> AdapterRequest | None:
    """The base at its locked version; with ``--locked`` None for a base that is not locked.

    Raises:
        UsageError: the locked revision is invalid.
    """
    locked = lock.base
    if request is None:
        return None
    if locked is None or base_mismatch(adapter_set, locked) or (flags.upgrade and not flags.some):
        return None if flags.locked else request
    ref_at(request.ref, locked)
    return replace(request, locked=locked)


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
    sources = {entry.name: entry.source for entry in adapter_set.adapters}
    return {name: one for name, one in locked.items() if ref_at(sources[name], one).scheme != "file"}


def _check_writable(requests: FetchRequests, file: LockFile) -> None:
    """Checks before the fetch that a lock that will change can be written.

    Raises:
        MachineError: its folder is not writable.
    """
    new = [request.source for request in requests.adapters if request.locked is None]
    if file.lock is not None and all(isinstance(ref, AdapterRef) and ref.scheme == "file" for ref in new):
        return
    folder = Path(os.path.realpath(file.path)).parent
    if not (folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)):
        raise MachineError(
            f"{file.path}: the lock cannot be written there",
            hint="--lock FILE writes it elsewhere; --locked uses an existing lock and writes nothing",
        )


def write_lock(
    file: LockFile, flags: LockFlags, outcomes: Iterable[Outcome], store: Store, settings: Settings
) -> Changes:
    """Updates the lock with the fetched versions, and returns the changes; the file is replaced only if it changes.

    Entries of adapters that failed, of other shards, and those that another process wrote meanwhile stay.

    Raises:
        MachineError: it cannot be written.
        UsageError: another process replaced it by something that is not a lock.
    """
    new = dict(_newly_locked(file.adapter_set, outcomes))
    path = Path(os.path.realpath(file.path))
    with lease(store, hashlib.sha256(os.fsencode(path)).hexdigest(), settings.timeout_s):
        now = _read(path, flags) or Lock(())
        after = relocked(file.adapter_set, now, new)
        if dump_lock(after) != dump_lock(now):
            with on_disk("writing", file.path, "--lock"):
                replace_file(path, dump_lock(after).encode("ascii"))
    changes = Changes(now, after)
    if changes and not settings.quiet:
        to_stderr(render_changes(file.path, changes))
    return changes


def _newly_locked(adapter_set: AdapterSet, outcomes: Iterable[Outcome]) -> Iterator[tuple[str, LockedAdapter]]:
    """The lock entries of fetched adapters, by name, where they differ from the lock."""
    entries = {entry.name: entry for entry in adapter_set.adapters}
    for outcome in outcomes:
        request, fetched = outcome.request, outcome.fetched
        if fetched is not None:
            # A folder's revision is made of times, which another machine cannot check.
            revision = "" if request.ref.scheme == "file" else fetched.revision
            entry = entries.get(request.name)
            source, checkpoint = (entry.written, entry.checkpoint) if entry is not None else (str(request.ref), "")
            locked = LockedAdapter(request.name, source, revision, fetched.snapshot.files, checkpoint)
            if locked != request.locked:
                yield request.name, locked


def report_drift(
    requests: FetchRequests, file: LockFile, settings: Settings, output_format: Format, *, some: bool
) -> int:
    """Writes what differs from the lock: a line for each adapter in a pipe, a table on a terminal.

    With ``some``, only of the adapters that were named. Returns the exit code: 1 for drift, else that of the error of
    an origin that could not be checked.
    """
    lock = file.lock or Lock(())
    done: list[CheckedAdapter] = []
    in_a_pipe = output_format == "human" and not sys.stdout.isatty()
    for one in _drifts(requests, lock, file.adapter_set, settings, base=not some):
        done.append(one)
        if output_format == "human" and one.error is not None:
            to_stderr(render_drift_error(one))
        elif in_a_pipe and (one.drift or not settings.quiet):
            write(render_drift(one))
    names = {entry.name for entry in file.adapter_set.adapters}
    names |= {THE_BASE} if requests.base is not None else set()
    removed = [] if some else [name for name in lock.by_name if name not in names]
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
            difference = mismatch(entries[request.name], lock.adapter(request.name))
            yield checked_adapter(request, (difference.removeprefix(f"{request.name} "),))
    if base and requests.base is not None and requests.base.locked is not None:
        # Policies about adapters do not apply to the base.
        yield from find_drift([requests.base], replace(settings, policies=()))
    elif base and requests.base is not None and lock.base is not None:
        difference = base_mismatch(adapter_set, lock.base)
        yield checked_adapter(requests.base, (difference.removeprefix(f"{THE_BASE} "),))
