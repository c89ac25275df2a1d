"""A source that reads files of a revision from the cache where it has them, and all others from the origin."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from lora_cli.core.reference import AdapterRef
from lora_cli.core.request import Request, Selection
from lora_cli.core.snapshot import RemoteFile, Revision, Snapshot
from lora_cli.errors import Offline
from lora_cli.fetching import cached
from lora_cli.settings import Settings
from lora_cli.sources import Source
from lora_cli.sources.local import LocalSource, snapshot_at
from lora_cli.store import Store

if TYPE_CHECKING:
    from lora_cli.core.lock import LockedAdapter


class CacheFirstSource:
    """``origin`` behind the snapshots of the cache. It writes nothing, not even when a snapshot was last used.

    Cached pinned references cost no request, and with ``settings.offline`` no reference does; neither does what is
    ``locked``, also from an origin whose references cannot name a revision. ``selection`` is that of the cached fetch;
    with ``latest`` in it ``origin`` gives the latest checkpoint.
    """

    def __init__(
        self, origin: Source, settings: Settings, selection: Selection, locked: "LockedAdapter | None" = None
    ) -> None:
        self._origin, self._store, self._selection = origin, Store(settings.cache_dir), selection
        self._settings, self._locked = settings, locked
        self._cached: dict[AdapterRef, tuple[Snapshot, LocalSource, Revision]] = {}
        """Reference of a resolved revision → the snapshot that it is read from, and its folder."""

    def resolve(self, ref: AdapterRef) -> Revision:
        """The revision that ``ref`` means: the cached one where the origin need not be asked, else the origin's.

        Raises:
            LoraCliError: what the origin raises.
        """
        request = Request("", ref, selection=self._selection, locked=self._locked)
        if (found := cached.lookup(request, self._store, self._settings)) is not None:
            return self._from_cache(ref, found[1], found[0].revision)
        try:
            revision = self._origin.resolve(ref)
        except Offline as error:
            raise cached.not_cached(ref, self._store, self._settings, error.hint) from error
        for record in cached.earlier(request, revision, self._selection, self._store, self._settings):
            listed = [file for path in record.files if (file := revision.file(path)) is not None]
            if (snapshot := cached.recorded([record], revision, listed, self._store)) is not None:
                self.take(revision, snapshot)
        return revision

    def take(self, revision: Revision, snapshot: Snapshot) -> None:
        """From now on reads the files of ``revision`` from ``snapshot`` where that has them."""
        self._cached[revision.ref] = (snapshot, *snapshot_at(snapshot.directory))

    def _from_cache(self, ref: AdapterRef, snapshot: Snapshot, revision: str) -> Revision:
        _, _, folder = self._cached[ref] = (snapshot, *snapshot_at(snapshot.directory))
        return Revision(ref, revision, folder.files)

    def read(self, revision: Revision, file: RemoteFile, start: int, stop: int | None) -> Iterator[bytes]:
        """Bytes of ``file``, from the cache where it has them."""
        if revision.ref in self._cached:
            _, local, folder = self._cached[revision.ref]
            if (cached := folder.file(file.path)) is not None:
                return local.read(folder, cached, start, stop)
        return self._origin.read(revision, file, start, stop)

    def holds(self, revision: Revision) -> bool:
        """Whether the bytes of an adapter at ``revision`` are on this disk."""
        return revision.ref in self._cached

    def snapshot(self, revision: Revision) -> Snapshot | None:
        """The cached snapshot that ``revision`` is read from; None if it is not cached."""
        return self._cached[revision.ref][0] if revision.ref in self._cached else None
