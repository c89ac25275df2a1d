"""The files of what was asked for: from the cache where it has them, else from the origin. Nothing is written."""

from dataclasses import replace

from lora_cli.core.request import Request
from lora_cli.core.snapshot import RemoteFile, Revision
from lora_cli.errors import Offline
from lora_cli.fetching.checkpoint import resolve
from lora_cli.fetching.resolution_history import last_snapshot, not_cached_error, recorded_blob, recorded_folder
from lora_cli.settings import Settings
from lora_cli.sources.files import Files
from lora_cli.sources.registry import Sources
from lora_cli.store import Store
from lora_cli.store.snapshots import find_snapshot


def open_files(request: Request, settings: Settings, sources: Sources) -> Files:
    """The files that ``request`` means, to read without a download.

    Pinned and locked references that are cached cost no request, and with ``settings.offline`` none does. Of any other
    reference the origin is asked for its revision, and files of that revision that are cached are read from there.

    Raises:
        LoraCliError: as ``resolve``.
    """
    ref, selection, store = request.locked_ref, request.selection, Store(settings.cache_dir)
    source = sources.of(ref)
    if ref.scheme == "file" or not settings.cache_dir.is_dir():
        return Files(source, resolve(source, ref, latest=selection.latest))
    # Policies are checked against the folder of the latest checkpoint, which only a listing shows.
    must_list = selection.latest and bool(settings.policies)
    locked = None if must_list else request.locked
    folder = recorded_folder(store, ref, selection, locked, settings)
    known = last_snapshot(store, ref, selection, settings)
    found = None
    if locked is not None and folder is not None and (snapshot := find_snapshot(store, locked.files)) is not None:
        found = locked.revision, snapshot
    elif known is not None and (settings.offline or ref.pinned) and not must_list:
        found = known[0].revision, known[1]
    if found is not None:
        files = (RemoteFile(path, blob.size, blob.sha256) for path, blob in sorted(found[1].files.items()))
        return Files(source, Revision(replace(ref, subfolder=folder or ""), found[0], tuple(files)), found[1])
    try:
        revision = resolve(source, ref, latest=selection.latest)
    except Offline as error:
        raise not_cached_error(store, ref, settings, error.hint) from error
    if known is None or revision.id != known[0].revision:
        return Files(source, revision)
    record, snapshot = known
    listed = [file for path in record.files if (file := revision.file(path)) is not None]
    same = all(recorded_blob(record, revision, file) is not None for file in listed)
    return Files(source, revision, snapshot if same else None)
