"""A source that reads what the cache already has of a revision from there, and everything else from its origin."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from lora_cli.core.reference import AdapterRef
from lora_cli.core.snapshot import RemoteFile, Revision
from lora_cli.fetching.file_selection import Selection
from lora_cli.fetching.resolution_history import access_of, recorded_blob, remembered
from lora_cli.settings import Settings
from lora_cli.sources import Source
from lora_cli.sources.local import LocalSource, snapshot_at
from lora_cli.store import Store
from lora_cli.store.snapshots import find_snapshot

if TYPE_CHECKING:
    from lora_cli.core.lock import LockedAdapter


class HereFirst:
    """``origin``, with the snapshots of the cache in front of it. It writes nothing, not even when a snapshot was used.

    A pinned reference whose snapshot is here costs no request, and with ``settings.offline`` no reference does; neither
    does what is ``locked``, for an origin whose references cannot name a revision. ``selection`` is what was fetched
    then; with ``latest`` in it the origin gives the latest checkpoint.
    """

    def __init__(
        self, origin: Source, settings: Settings, selection: Selection, locked: "LockedAdapter | None" = None
    ) -> None:
        self._origin, self._store, self._selection = origin, Store(settings.cache_dir), selection
        # A policy is held against the folder that the latest checkpoint is, and only a listing says which.
        self._asks = selection.latest and bool(settings.policies)
        self._settings, self._locked = settings, None if self._asks else locked
        self._held: dict[AdapterRef, tuple[LocalSource, Revision]] = {}
        self._digests: dict[AdapterRef, str] = {}

    def resolve(self, ref: AdapterRef) -> Revision:
        """What ``ref`` means: as its origin says, unless what is here need not be asked for.

        Raises:
            LoraCliError: what the origin raises.
        """
        if self._locked is not None and (found := find_snapshot(self._store, self._locked.files)) is not None:
            self._held[ref] = here = snapshot_at(found.directory)
            self._digests[ref] = found.digest
            access = access_of(self._store, ref, self._selection, self._settings)
            return Revision(ref, self._locked.revision, here[1].files, access)
        known = remembered(self._store, ref, self._selection, self._settings)
        if known is None:
            return self._origin.resolve(ref)
        record, snapshot = known
        here = snapshot_at(snapshot.directory)
        if (self._settings.offline or ref.pinned) and not self._asks:
            revision = Revision(ref, record.revision, here[1].files, record.access)
            self._held[revision.ref], self._digests[revision.ref] = here, snapshot.digest
            return revision
        revision = self._origin.resolve(ref)
        listed = [file for path in record.files if (file := revision.file(path)) is not None]
        if revision.id == record.revision and all(recorded_blob(record, revision, file) is not None for file in listed):
            self._held[revision.ref], self._digests[revision.ref] = here, snapshot.digest
        return revision

    def read(self, revision: Revision, file: RemoteFile, start: int, stop: int | None) -> Iterator[bytes]:
        """Bytes of ``file``, from this disk where it has them."""
        if revision.ref in self._held:
            local, here = self._held[revision.ref]
            if (held := here.file(file.path)) is not None:
                return local.read(here, held, start, stop)
        return self._origin.read(revision, file, start, stop)

    def holds(self, revision: Revision) -> bool:
        """Whether the bytes of an adapter at ``revision`` are on this disk."""
        return revision.ref in self._held

    def digest(self, revision: Revision) -> str | None:
        """The digest of the snapshot in the cache that ``revision`` is read from; None if it is not here."""
        return self._digests.get(revision.ref)
