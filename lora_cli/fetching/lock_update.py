"""The lock of a manifest: which version a fetch takes of each adapter, and the file with what it fetched."""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lora_cli.base.reading import local_config
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
from lora_cli.refs.request import LockFlags, Request
from lora_cli.settings import Settings
from lora_cli.sources.registry import endpoint_of
from lora_cli.store import Store
from lora_cli.store.disk import on_disk, replace_file
from lora_cli.store.locks import exclusive
from lora_cli.text import names


@dataclass(frozen=True, slots=True)
class LockFile:
    """The lock file of an adapter set, and what is asked of it; ``lock`` is empty while there is no file."""

    path: Path
    lock: Lock
    adapter_set: AdapterSet
    flags: LockFlags

    def apply(self, requests: Iterable[Request]) -> Iterator[Request]:
        """The requests for adapters at their locked versions.

        With ``--locked`` and ``--check`` these are all adapters. Otherwise those that do not match the lock, that are
        to be upgraded, or that are local folders (which have no revision to stay at) are fetched as they are now.

        Raises ``UsageError``: a locked revision is invalid.
        """
        is_exact, locked = self.flags.locked or self.flags.check, locked_adapters(self.adapter_set, self.lock)
        for request in requests:
            if (known := locked.get(request.name)) is None:
                yield request
                continue
            stays = not self.flags.upgrade and (is_exact or ref_at(request.ref, known).scheme != "file")
            source = request.source if known.revision else ref_at(request.ref, known)
            yield replace(request, source=source, locked=known if stays else None)

    def apply_base(self, request: Request | None) -> Request | None:
        """The base that is to be locked, or compared with its lock; None where it stays as it is locked.

        Raises ``UsageError``: the locked revision is invalid.
        """
        locked, flags = self.lock.get(THE_BASE), self.flags
        if request is None or flags.locked:
            return None
        if locked is None or base_mismatch(self.adapter_set, locked) or (flags.upgrade and not flags.some):
            return request
        ref_at(request.ref, locked)
        return replace(request, locked=locked) if flags.check and locked.revision else None

    def check_agrees(self) -> None:
        """Checks that lock and manifest agree.

        Raises:
            Refused: they do not.
            FormatError, MachineError: the config of a local base cannot be read.
        """
        manifest = self.adapter_set.file
        if found := [*drift(self.adapter_set, self.lock), *self._base_drift()]:
            more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
            hint = f"lora-cli fetch -f {manifest} updates the lock"
            raise Refused(f"{self.path} does not match {manifest}: {found[0]}{more}", hint=hint)

    def check_writable(self, requests: Iterable[Request]) -> None:
        """Checks before the fetch that a lock that will change can be written.

        Raises ``MachineError``: its folder is not writable.
        """
        if self.lock and all(one.ref.scheme == "file" for one in requests if one.locked is None):
            return
        folder = Path(os.path.realpath(self.path)).parent
        if not (folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)):
            hint = "--locked uses an existing lock and writes nothing"
            raise MachineError(f"{self.path}: the lock cannot be written there", hint=hint)

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
        self,
        outcomes: Iterable[Outcome],
        base: Outcome | None,
        store: Store,
        settings: Settings,
        warn: Callable[[str], None],
    ) -> tuple[Lock, Lock]:
        """The lock before and after it has the fetched versions; the file is replaced only if it changes.

        ``base`` is the outcome for the base's config, if that was fetched; a local one is read here, and why it cannot
        be is for ``warn``. Entries of adapters that failed, of other shards, and those that another process wrote
        meanwhile stay.

        Raises:
            MachineError: it cannot be written.
            UsageError: another process replaced it by something that is not a lock.
        """
        new = dict[str, LockedAdapter]()
        entries = {entry.name: entry for entry in self.adapter_set.adapters}
        for outcome in outcomes:
            request, fetched = outcome.request, outcome.fetched
            if fetched is not None:
                # A folder's revision is made of times, which another machine cannot check.
                is_folder, files = request.ref.scheme == "file", fetched.snapshot.files
                revision, endpoint = ("", "") if is_folder else (fetched.revision, endpoint_of(request.ref, settings))
                locked = LockedAdapter(request.name, entries[request.name].written, revision, files, endpoint)
                if locked != request.locked:
                    new[request.name] = locked
        place, revision, endpoint = self._base_path, "", ""
        if base is not None and base.fetched is not None:
            place, revision = base.fetched.snapshot.directory, base.fetched.revision
            endpoint = endpoint_of(base.request.ref, settings)
        try:
            data = local_config(place) if place is not None else None
        except LoraCliError as error:
            warn(f"{THE_BASE} is not locked: {error.message}")
            data = None
        if data is not None:
            source, files = self.adapter_set.base_written, config_files(data)
            new[THE_BASE] = LockedAdapter(THE_BASE, source, revision, files, endpoint, data.decode())
        path = Path(os.path.realpath(self.path))
        with exclusive(store, hashlib.sha256(os.fsencode(path)).hexdigest(), settings.timeout_s):
            now = _read(path, self.flags, self.adapter_set.file) or {}
            after = relocked(self.adapter_set, now, new)
            if dump_lock(after) != dump_lock(now):
                with on_disk("writing", self.path, "-f"):
                    replace_file(path, dump_lock(after).encode("ascii"))
        return now, after

    def drifts(self, requests: Sequence[Request], base: Request | None, settings: Settings) -> Iterator[CheckedAdapter]:
        """The drift of each adapter in order, then of the base; no origin is asked where lock and manifest differ."""
        entries = {entry.name: entry for entry in self.adapter_set.adapters}
        looked = find_drift([one for one in requests if one.locked is not None], settings)
        for request in requests:
            if request.locked is not None:
                yield next(looked)
            else:
                difference = mismatch(entries[request.name], self.lock.get(request.name))
                yield checked_adapter(request, (difference.removeprefix(f"{request.name} "),))
        locked, manifest = self.lock.get(THE_BASE), self.adapter_set
        if self.flags.some or manifest.base is None:
            return
        if base is not None and base.locked is not None:
            # Policies about adapters do not apply to the base.
            yield from find_drift([base], replace(settings, policies=()))
            return
        found = [one.removeprefix(f"{THE_BASE} ") for one in self._base_drift()]
        if found or locked is not None:
            changes = [f"{one}; lora-cli fetch -f {manifest.file} locks it" for one in found]
            yield checked_adapter(Request(THE_BASE, manifest.base, locked=locked), changes)

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

    def _base_drift(self) -> Iterator[str]:
        """Why the locked base is not the manifest's, in one sentence; nothing when it is, or has no config to lock.

        Raises ``FormatError`` and ``MachineError``: the config of a local base cannot be read.
        """
        locked, path = self.lock.get(THE_BASE), self._base_path
        said = base_mismatch(self.adapter_set, locked)
        here = local_config(path) if path is not None else None
        if path is not None and here is None and locked is None and (path.exists() or path.suffix == ".safetensors"):
            return
        if said:
            yield said
        elif here is not None and locked is not None and locked.files != config_files(here):
            yield f"{THE_BASE} has other bytes than the locked ones"


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
    return LockFile(place, lock or {}, adapter_set, flags)


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
