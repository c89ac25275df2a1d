"""A source that reads what the cache already has of a revision from there, and everything else from its origin."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from lora_cli.core.reference import AdapterRef
from lora_cli.core.snapshot import RemoteFile, Revision, Snapshot
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
        self._cached: dict[AdapterRef, tuple[str, LocalSource, Revision]] = {}
        """Reference of a resolved revision → digest and folder of the snapshot that it is read from."""

    def resolve(self, ref: AdapterRef) -> Revision:
        """What ``ref`` means: as its origin says, unless what is here need not be asked for.

        Raises:
            LoraCliError: what the origin raises.
        """
        if self._locked is not None and (found := find_snapshot(self._store, self._locked.files)) is not None:
            access = access_of(self._store, ref, self._selection, self._settings)
            return self._from_cache(ref, found, self._locked.revision, access)
        known = remembered(self._store, ref, self._selection, self._settings)
        if known is None:
            return self._origin.resolve(ref)
        record, snapshot = known
        if (self._settings.offline or ref.pinned) and not self._asks:
            return self._from_cache(ref, snapshot, record.revision, record.access)
        revision = self._origin.resolve(ref)
        listed = [file for path in record.files if (file := revision.file(path)) is not None]
        if revision.id == record.revision and all(recorded_blob(record, revision, file) is not None for file in listed):
            self._cached[revision.ref] = (snapshot.digest, *snapshot_at(snapshot.directory))
        return revision

    def _from_cache(self, ref: AdapterRef, snapshot: Snapshot, revision: str, access: str) -> Revision:
        _, _, folder = self._cached[ref] = (snapshot.digest, *snapshot_at(snapshot.directory))
        return Revision(ref, revision, folder.files, access)

    def read(self, revision: Revision, file: RemoteFile, start: int, stop: int | None) -> Iterator[bytes]:
        """Bytes of ``file``, from this disk where it has them."""
        if revision.ref in self._cached:
            _, local, folder = self._cached[revision.ref]
            if (cached := folder.file(file.path)) is not None:
                return local.read(folder, cached, start, stop)
        return self._origin.read(revision, file, start, stop)

    def holds(self, revision: Revision) -> bool:
        """Whether the bytes of an adapter at ``revision`` are on this disk."""
        return revision.ref in self._cached

    def digest(self, revision: Revision) -> str | None:
        """The digest of the snapshot in the cache that ``revision`` is read from; None if it is not here."""
        return self._cached[revision.ref][0] if revision.ref in self._cached else None
