"""The files of what was asked for: from the cache where it has them, else from the origin. Nothing is written."""

from dataclasses import replace

from lora_cli.core.request import Request
from lora_cli.core.snapshot import RemoteFile, Revision
from lora_cli.fetching import cached
from lora_cli.fetching.checkpoint import resolve
from lora_cli.settings import Settings
from lora_cli.sources.files import Files
from lora_cli.sources.registry import Sources
from lora_cli.store import Store


def open_files(request: Request, settings: Settings, sources: Sources) -> Files:
    """The files that ``request`` means, to read without a download; pickled ones, too.

    Pinned and locked references that are cached cost no request, and with ``settings.offline`` none does. Of any other
    reference the origin is asked for its revision, and what is cached of that is read from there.

    Raises:
        LoraCliError: as ``resolve``.
    """
    ref, store = request.locked_ref, Store(settings.cache_dir)
    if ref.scheme == "file":
        return Files(sources.of(ref), resolve(request, sources))
    if request.locked is not None:
        request = replace(request, selection=replace(request.selection, allow_pickle=True))
    if (found := cached.lookup(request, store, settings)) is not None:
        record, snapshot = found
        files = (RemoteFile(path, blob.size, blob.sha256) for path, blob in sorted(snapshot.files.items()))
        return Files(sources.of(ref), Revision(ref, record.revision, tuple(files)), snapshot)
    with cached.hints(request, store, settings):
        revision = resolve(request, sources)
    for record in cached.earlier(request, revision, request.selection, store, settings):
        listed = [file for file in revision.files if file.path in record.files]
        if (cached_snapshot := cached.recorded([record], revision, listed, store)) is not None:
            return Files(sources.of(ref), revision, cached_snapshot)
    return Files(sources.of(ref), revision)
