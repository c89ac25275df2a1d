"""The lock of a manifest: read before a fetch to pin it, written after it, and compared with the origins."""

import hashlib
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from lora_cli.cli.adapter_selection import LockFlags, Order
from lora_cli.cli.output import Format, drawn, to_stderr, write
from lora_cli.core.lock import THE_BASE, Changes, Lock, LockedAdapter, of_manifest, ref_at
from lora_cli.core.reference import AdapterRef
from lora_cli.documents.lockfile import KIND, base_mismatch, drift, dump_lock, mismatch, relocked
from lora_cli.documents.manifest import AdapterSet
from lora_cli.errors import MachineError, NotFound, Refused, UsageError
from lora_cli.fetching.batch import Outcome
from lora_cli.fetching.context import AdapterRequest
from lora_cli.fetching.lock_drift import Drift, find_drift
from lora_cli.fetching.requirements import Demand
from lora_cli.reading.manifest import STDIN, lock_path, locked_adapters, read_lock, read_text
from lora_cli.render.fetch_report import CheckedAdapter, CheckReport, checked_adapter
from lora_cli.render.json import encoded
from lora_cli.render.terminal_fetch import drift_parts, render_changes, render_drift, render_drift_error
from lora_cli.settings import Settings
from lora_cli.store import Store
from lora_cli.store.disk import on_disk, replace_file
from lora_cli.store.leases import lease


@dataclass(frozen=True, slots=True)
class LockFile:
    """A lock and its file; ``lock`` is None if there is no such file yet."""

    path: Path
    lock: Lock | None


def open_lock(manifest: Path, flags: LockFlags) -> LockFile | None:
    """The lock of a manifest: ``--lock``, else the one next to it; None for a manifest that has no folder.

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
    return LockFile(place, None if lock is None else of_manifest(lock, str(manifest)))


def _read(path: Path, flags: LockFlags) -> Lock | None:
    """What is locked, or None; an invalid lock counts as none if all of it is rewritten."""
    try:
        return read_lock(path)
    except NotFound:
        return None
    except UsageError:
        # Whatever else somebody named with --lock, their manifest say, is not ours to write over.
        text = read_text(path, "lock")
        if not flags.upgrade or flags.some or (text.strip() and KIND not in text):
            raise
        return None


def pinned(order: Order, manifest: Path, flags: LockFlags) -> tuple[Order, LockFile | None]:
    """``order`` with each adapter at what is locked, and the lock, if there is a place for one.

    With ``--locked`` that is every one. Otherwise it is those of which the lock still speaks and that are not to be
    upgraded; a folder on this machine is no revision to stay at: it is locked as it is now.

    Raises:
        UsageError: a locked revision is invalid.
        Refused: ``--locked``, and lock and manifest disagree.
        MachineError: it is known already that the lock must be written, and cannot be.
    """
    file = open_lock(manifest, flags)
    if file is None:
        return order, None
    assert order.manifest is not None
    lock = file.lock or Lock(())
    if flags.locked and (found := list(drift(order.manifest, lock))):
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        hint = f"lora-cli fetch -f {order.manifest.file} updates the lock"
        raise Refused(f"{file.path} does not match {order.manifest.file}: {found[0]}{more}", hint=hint)
    kept = held(order.manifest, lock, flags)
    adapters = (replace(one, demand=replace(one.demand, locked=kept.get(one.name))) for one in order.adapters)
    order = replace(order, adapters=tuple(adapters), base=_base(order, lock, flags))
    if not (flags.locked or flags.check):
        _check_writable(order, file)
    return order, file


def _base(order: Order, lock: Lock, flags: LockFlags) -> AdapterRequest | None:
    """The base at what is locked; with ``--locked`` one that is not locked is not asked for.

    Raises:
        UsageError: the locked revision is invalid.
    """
    assert order.manifest is not None
    request, locked = order.base, lock.base
    if request is None:
        return None
    if locked is None or base_mismatch(order.manifest, locked) or (flags.upgrade and not flags.some):
        return None if flags.locked else request
    ref_at(request.ref, locked)
    return replace(request, demand=Demand(locked=locked))


def held(adapter_set: AdapterSet, lock: Lock, flags: LockFlags) -> Mapping[str, LockedAdapter]:
    """The adapters that stay at what is locked, by name.

    Raises:
        UsageError: a locked revision is invalid.
    """
    if flags.upgrade:
        return {}
    locked = locked_adapters(adapter_set, lock)
    if flags.locked or flags.check:
        return locked
    folders = {entry.name for entry in adapter_set.adapters if entry.source.scheme == "file"}
    return {name: one for name, one in locked.items() if name not in folders}


def _check_writable(order: Order, file: LockFile) -> None:
    """Says before anything is fetched that a lock cannot be written, where it is known that it must be.

    Raises:
        MachineError: its folder does not take a file.
    """
    new = [request.parsed for request in order.adapters if request.demand.locked is None]
    if file.lock is not None and all(isinstance(ref, AdapterRef) and ref.scheme == "file" for ref in new):
        return
    folder = Path(os.path.realpath(file.path)).parent
    if not (folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)):
        raise MachineError(
            f"{file.path}: the lock cannot be written there",
            hint="--lock FILE writes it elsewhere; --locked uses an existing lock and writes nothing",
        )


def write_lock(
    order: Order, file: LockFile, flags: LockFlags, outcomes: Iterable[Outcome], store: Store, settings: Settings
) -> Changes:
    """Updates the lock with what was fetched, and returns the changes; the file is replaced only if it changes.

    What failed, and what another shard fetches, stays locked as it was; what another process locked meanwhile, too.

    Raises:
        MachineError: it cannot be written.
        UsageError: another process wrote something else there meanwhile.
    """
    assert order.manifest is not None
    new = dict(_new(order.manifest, outcomes))
    path = Path(os.path.realpath(file.path))
    with lease(store, hashlib.sha256(os.fsencode(path)).hexdigest(), settings.timeout_s):
        now = _read(path, flags) or Lock(())
        after = relocked(order.manifest, now, new)
        if dump_lock(after) != dump_lock(now):
            with on_disk("writing", file.path, "--lock"):
                replace_file(path, dump_lock(after).encode("ascii"))
    changes = Changes(now, after)
    if changes and not settings.quiet:
        to_stderr(render_changes(file.path, changes))
    return changes


def _new(adapter_set: AdapterSet, outcomes: Iterable[Outcome]) -> Iterator[tuple[str, LockedAdapter]]:
    """What was fetched and is not what was locked already."""
    entries = {entry.name: entry for entry in adapter_set.adapters}
    for outcome in outcomes:
        request, fetched = outcome.request, outcome.fetched
        if fetched is not None:
            # A folder's revision is made of times, which another machine cannot check.
            revision = "" if request.ref.scheme == "file" else fetched.revision
            entry = entries.get(request.name)
            written, checkpoint = (entry.written, entry.checkpoint) if entry is not None else (str(request.ref), "")
            locked = LockedAdapter(request.name, written, revision, fetched.snapshot.files, checkpoint)
            if locked != request.demand.locked:
                yield request.name, locked


def report_drift(order: Order, file: LockFile, settings: Settings, output_format: Format, *, some: bool) -> int:
    """Writes what differs: a line for each adapter in a pipe, a table on a terminal; of ``some`` only what was named.

    Gives the exit code: 1 for drift, else that of what kept an origin from being asked.
    """
    assert order.manifest is not None
    lock = file.lock or Lock(())
    done: list[CheckedAdapter] = []
    in_a_pipe = output_format == "human" and not sys.stdout.isatty()
    for one in map(checked_adapter, _drifts(order, lock, settings, base=not some)):
        done.append(one)
        if output_format == "human" and one.error is not None:
            to_stderr(render_drift_error(one))
        elif in_a_pipe and (one.drift or not settings.quiet):
            write(render_drift(one))
    names = {entry.name for entry in order.manifest.adapters} | ({THE_BASE} if order.base is not None else set())
    removed = [] if some else [name for name in lock.by_name if name not in names]
    code = max([one.exit_code for one in done] + [int(bool(removed))])
    report = CheckReport(lock=str(file.path), adapters=done, left_over=removed, exit_code=code)
    if output_format == "json":
        write(encoded(report))
    elif in_a_pipe:
        write("".join(f"{name}: is locked but not in the manifest\n" for name in removed))
    elif report.exit_code or not settings.quiet:
        write(drawn(drift_parts(report)))
    return report.exit_code


def _drifts(order: Order, lock: Lock, settings: Settings, *, base: bool) -> Iterator[Drift]:
    """Each adapter in order, after them the ``base``; an origin is asked only where lock and manifest agree."""
    assert order.manifest is not None
    entries = {entry.name: entry for entry in order.manifest.adapters}
    looked = find_drift([one for one in order.adapters if one.demand.locked is not None], settings)
    for request in order.adapters:
        if request.demand.locked is not None:
            yield next(looked)
        else:
            said = mismatch(entries[request.name], lock.adapter(request.name))
            yield Drift(request, (said.removeprefix(f"{request.name} "),))
    if base and order.base is not None and order.base.demand.locked is not None:
        # What policies say of adapters does not apply to it.
        yield from find_drift([order.base], replace(settings, policies=()))
    elif base and order.base is not None and lock.base is not None:
        yield Drift(order.base, (base_mismatch(order.manifest, lock.base).removeprefix(f"{THE_BASE} "),))
