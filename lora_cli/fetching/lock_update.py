"""The lock of a manifest: which version a fetch takes of each adapter, the file with what it fetched, and drift."""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lora_cli.base.reading import local_config
from lora_cli.documents.document import STDIN, read_text
from lora_cli.documents.manifest import (
    KIND,
    AdapterSet,
    base_mismatch,
    config_files,
    dump_lock,
    lock_path,
    locked_adapters,
    mismatch,
    read_lock,
    relocked,
)
from lora_cli.errors import LoraCliError, NotFound, Offline, Refused, UsageError
from lora_cli.fetching import gate
from lora_cli.fetching.batch import Outcome, ordered_parallel_map
from lora_cli.fetching.file_selection import resolve, select_files
from lora_cli.json_schema import Count, ErrorReport, error_report
from lora_cli.refs.request import THE_BASE, Lock, LockedAdapter, LockFlags, Request, Selection, ref_at
from lora_cli.settings import Settings
from lora_cli.sources.files import Files
from lora_cli.sources.registry import Sources, endpoint_of
from lora_cli.store import Store
from lora_cli.store.disk import on_disk, replace_file
from lora_cli.text import names


@dataclass(frozen=True, slots=True)
class CheckedAdapter:
    """One locked adapter next to what its source has now."""

    name: str
    ref: str | None
    locked: str | None
    """The revision in the lock; null if it is not locked."""
    now: str | None
    """The revision that its source has now; null if it was not asked."""
    drift: Sequence[str]
    """What changed since it was locked, a sentence each."""
    exit_code: Count
    error: ErrorReport | None


@dataclass(frozen=True, slots=True)
class SetLock:
    """The lock file of an adapter set, and what is asked of it; ``lock`` is empty while there is no file."""

    path: Path
    lock: Lock
    adapter_set: AdapterSet
    flags: LockFlags

    def apply(self, requests: Iterable[Request]) -> Iterator[Request]:
        """The requests for adapters at their locked versions.

        With ``--locked`` and ``--check`` these are all adapters, and one that is not locked is invalid. Otherwise those
        that do not match the lock, that are to be upgraded, or that are local folders (which have no revision to stay
        at) are fetched as they are now.
        Raises ``UsageError`` if a locked revision is invalid.
        """
        is_exact, locked = self.flags.locked or self.flags.check, locked_adapters(self.adapter_set, self.lock)
        for request in requests:
            if (known := locked.get(request.name)) is not None:
                upgraded = self.flags.upgrade and bool(known.revision)  # then it may be locked at anything
                ref = request.ref if upgraded else ref_at(request.ref, known)
                stays = not self.flags.upgrade and (is_exact or ref.scheme != "file")
                source = request.source if known.revision else ref
                request = replace(request, source=source, locked=known if stays else None)  # noqa: PLW2901
            elif self.flags.locked:  # with --keep-going, else ``check_agrees`` refuses all
                said = mismatch(request, self.lock.get(request.name))
                why = Refused(said, hint="lora-cli fetch -f locks it, if it can")
                request = replace(request, invalid=why)  # noqa: PLW2901
            yield request

    def apply_base(self, request: Request | None) -> Request | None:
        """The base that is to be locked, or compared with its lock; None where it stays as it is locked.

        Raises ``UsageError`` if the locked revision is invalid.
        """
        locked, flags = self.lock.get(THE_BASE), self.flags
        if request is None or flags.locked:
            return None
        if locked is None or base_mismatch(self.adapter_set, locked) or (flags.upgrade and not flags.some):
            return request
        ref_at(request.ref, locked)
        return replace(request, locked=locked) if flags.check and locked.revision else None

    def check_agrees(self) -> None:
        """Raises ``Refused`` if lock and manifest disagree, and as ``local_config`` for a local base."""
        found, base = list[str](), self._base_drift()
        if not self.flags.keep_going:
            differ = (mismatch(one, self.lock.get(one.name)) for one in self.adapter_set.adapters)
            gone = (f"{name} is locked but not in the manifest" for name in self.left_over if name != THE_BASE)
            found += [*filter(None, differ), *gone]
        if found := [*found, *([base] if base else [])]:
            more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
            hint = f"lora-cli fetch -f {self.adapter_set.file} updates it; take what cannot be fetched out of the set"
            raise Refused(f"{self.path} does not match {self.adapter_set.file}: {found[0]}{more}", hint=hint)

    def moved(self, requests: Iterable[Request], settings: Settings) -> str:
        """In one line, which come from another server than when they were locked (their digests decide); or ""."""
        moved = dict[tuple[str, str], list[str]]()
        known = {**locked_adapters(self.adapter_set, self.lock), THE_BASE: self.lock.get(THE_BASE)}
        for request in requests:
            locked = known.get(request.name)
            if locked is None or request.ref.scheme == "file" or (request.name == THE_BASE and not request.locked):
                continue
            if (now := endpoint_of(request.ref, settings)) != locked.endpoint:
                moved.setdefault((locked.endpoint, now), []).append(request.name)
        told = (f"{names(found)}: locked from {was}, now from {now}" for (was, now), found in moved.items())
        return f"other endpoints than in {self.path}: {'; '.join(told)}" if moved else ""

    def update(
        self, outcomes: Iterable[Outcome], base: Outcome | None, settings: Settings, warn: Callable[[str], None]
    ) -> tuple[Lock, Lock]:
        """The lock before and after it has the fetched versions; the file is replaced only if it changes.

        ``base`` is the outcome for the base's config, if that was fetched; a local one is read here, and why it cannot
        be is for ``warn``. Entries of adapters that failed, of other shards, and those that another process wrote
        meanwhile stay. Raises ``MachineError`` if it cannot be written, and ``UsageError`` if another process replaced
        it by something that is not a lock.
        """
        new = dict[str, LockedAdapter]()
        for request, fetched in ((one.request, one.fetched) for one in outcomes):
            if fetched is not None:
                # A folder's revision is made of times, which another machine cannot check.
                is_folder, files = request.ref.scheme == "file", fetched.snapshot.files
                revision, endpoint = ("", "") if is_folder else (fetched.revision, endpoint_of(request.ref, settings))
                locked = LockedAdapter(request.name, request.written, revision, files, endpoint)
                if locked != request.locked:
                    new[request.name] = locked
        place, revision, endpoint = self._base_path, "", ""
        if base is not None and base.fetched is not None:
            place, revision = base.fetched.snapshot.directory, base.fetched.revision
            endpoint = endpoint_of(base.request.ref, settings)
        try:
            if place is not None and (data := local_config(place)) is not None:
                about = self.adapter_set.base_written, revision, config_files(data), endpoint
                new[THE_BASE] = LockedAdapter(THE_BASE, *about, data.decode())
            elif place is not None and not (place.exists() or place.suffix == ".safetensors"):
                warn(f"{THE_BASE} is not locked: there is no {place}")
        except LoraCliError as error:
            warn(f"{THE_BASE} is not locked: {error.message}")
        path = Path(os.path.realpath(self.path))
        with Store(settings.cache_dir).lock(hashlib.sha256(os.fsencode(path)).hexdigest(), settings.timeout_s):
            now = _read(path, self.flags, self.adapter_set.file) or {}
            after = relocked(self.adapter_set, now, new)
            if dump_lock(after) != dump_lock(now):
                with on_disk("writing", self.path, "-f"):
                    replace_file(path, dump_lock(after).encode("ascii"))
        return now, after

    def drifts(self, requests: Sequence[Request], base: Request | None, settings: Settings) -> Iterator[CheckedAdapter]:
        """The drift of each adapter in order, then of the base; no origin is asked where lock and manifest differ."""
        looked = find_drift([one for one in requests if one.locked is not None], settings)
        for request in requests:
            if request.locked is not None:
                yield next(looked)
            else:
                difference = mismatch(request, self.lock.get(request.name))
                yield checked_adapter(request, (difference.removeprefix(f"{request.name} "),))
        locked, manifest = self.lock.get(THE_BASE), self.adapter_set
        if self.flags.some or manifest.base is None:
            return
        if base is not None and base.locked is not None:
            # Policies about adapters do not apply to the base.
            yield from find_drift([base], replace(settings, policies=()))
        elif (found := self._base_drift()) or locked is not None:
            said = f"{found.removeprefix(f'{THE_BASE} ')}; lora-cli fetch -f {manifest.file} locks it"
            yield checked_adapter(Request(THE_BASE, manifest.base, locked=locked), [said] * bool(found))

    @property
    def left_over(self) -> list[str]:
        """What is locked and not in the manifest."""
        known = {entry.name for entry in self.adapter_set.adapters}
        known |= {THE_BASE} if self.adapter_set.base is not None else set()
        return [name for name in self.lock if name not in known]

    @property
    def _base_path(self) -> Path | None:
        """The path of the manifest's base, if it is one."""
        base = self.adapter_set.base
        return Path(base.location) if base is not None and base.scheme == "file" else None

    def _base_drift(self) -> str:
        """Why the locked base is not the manifest's; "" when it is, or has no config; raises as ``local_config``."""
        locked, path = self.lock.get(THE_BASE), self._base_path
        here = local_config(path) if path is not None else None
        if said := base_mismatch(self.adapter_set, locked):
            has_none = path is not None and here is None and (path.exists() or path.suffix == ".safetensors")
            return "" if has_none and locked is None else said
        is_other = here is not None and locked is not None and locked.files != config_files(here)
        return f"{THE_BASE} has other bytes than the locked ones" if is_other else ""


def open_lock(manifest: Path, adapter_set: AdapterSet, flags: LockFlags) -> SetLock | None:
    """The lock of a manifest, next to it; None for a manifest that is not a regular file.

    Raises ``UsageError`` (an option of a lock for a manifest without a folder, or a lock that is wrong), ``NotFound``
    (``--locked``, and there is none).
    """
    if str(manifest) == STDIN or not manifest.is_file():
        if flags.given:
            raise UsageError(f"{manifest} has no folder for its lock", hint="write the manifest to a file")
        return None
    place = lock_path(manifest)
    lock = _read(place, flags, str(manifest))
    if lock is None and flags.locked:
        raise NotFound(f"there is no lock {place}", hint=f"lora-cli fetch -f {manifest} writes it")
    return SetLock(place, lock or {}, adapter_set, flags)


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


def checked_adapter(
    request: Request, changes: Sequence[str] = (), now: str = "", error: LoraCliError | None = None
) -> CheckedAdapter:
    """One adapter with its ``changes``, a sentence each; ``now`` is the origin's revision ("" if it was not asked)."""
    revision = None if request.locked is None else request.locked.revision
    code = int(bool(changes)) if error is None else error.exit_code
    return CheckedAdapter(request.name, request.canonical, revision, now or None, changes, code, error_report(error))


def find_drift(requests: Sequence[Request], settings: Settings) -> Iterator[CheckedAdapter]:
    """The changes at each origin since it was locked, in the order of ``requests``."""
    sources = Sources(settings)

    def checked(request: Request) -> CheckedAdapter:
        locked, ref = request.locked, request.ref
        assert locked is not None
        gate.refuse(request, settings)
        if ref.pinned and ref.revision == locked.revision:
            return checked_adapter(request, now=locked.revision)
        if settings.offline and ref.scheme != "file":
            raise Offline(f"{ref} cannot be checked, offline mode is on", hint="remove --offline")
        revision = resolve(replace(request, locked=None), sources)
        changes = tuple(_changes(locked, Files(sources.of(ref), revision), request.selection))
        return checked_adapter(request, changes, revision.id)

    yield from ordered_parallel_map(
        checked, requests, settings, lambda request, error: checked_adapter(request, error=error)
    )


def _changes(locked: LockedAdapter, files: Files, selection: Selection) -> Iterator[str]:
    revision = files.revision
    if revision.id == locked.revision:
        return
    if revision.ref.scheme == "hf":
        yield f"{revision.ref.revision or 'main'} moved from {locked.revision[:12]} to {revision.id[:12]}"
    elif revision.ref.scheme == "oci":
        tag = revision.ref.location.rpartition("/")[2].partition(":")[2] or "latest"
        yield f"{tag} moved from {locked.revision[:19]} to {revision.id[:19]}"
    planned = {file.path for file in select_files(revision, selection)}
    for path in sorted(planned | locked.files.keys()):
        file, blob = revision.file(path), locked.files.get(path)
        if file is None:
            yield f"{path} is missing"
        elif blob is None:
            yield f"{path} is new"
        elif file.size not in {None, blob.size}:
            yield f"{path} changed from {blob.size} to {file.size} bytes"
        elif (file.sha256 or files.sha256(file, blob.size)) != blob.sha256:
            yield f"{path} has different bytes"
