"""``fetch --dry-run``: what a fetch would download. Nothing is written, not even in the cache."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from types import NoneType

from lora_cli.errors import LoraCliError
from lora_cli.fetching import gate
from lora_cli.fetching.batch import ordered_parallel_map
from lora_cli.fetching.file_selection import refuse_pickled, resolve
from lora_cli.fetching.pipeline import found_at, hints, lookup, recorded, select
from lora_cli.json_schema import Count, ErrorReport, error_report
from lora_cli.refs.request import Request
from lora_cli.refs.snapshot import RemoteFile
from lora_cli.settings import Settings
from lora_cli.sources.registry import Sources
from lora_cli.store import Store


@dataclass(frozen=True, slots=True)
class PlannedAdapter:
    """What fetch would do with one adapter."""

    name: str
    ref: str | None
    revision: str | None = field(default_factory=NoneType)
    """What it means now; null if its source was not asked, or does not give it."""
    files: Count = 0
    bytes: Count = 0
    """Bytes of all files, as far as the source reports them."""
    missing_files: Count = 0
    """Files that are not in the cache."""
    missing_bytes: Count = 0
    """Bytes of these, as far as the source reports them."""
    exit_code: Count = 0
    error: ErrorReport | None = field(default_factory=NoneType)


def plan_all(requests: Sequence[Request], store: Store, settings: Settings) -> Iterator[PlannedAdapter]:
    """The plan for each request, in their order: origins are asked for listings, and no file is downloaded."""
    sources = Sources(settings)

    def planned(request: Request) -> PlannedAdapter:
        gate.refuse(request, settings)
        # A cached snapshot does not show which other files the origin has.
        found = None if request.selection.include else lookup(request, store, settings)
        snapshot, missing = None, list[RemoteFile]()
        if found is not None:
            record, snapshot = found
            ref, revision = found_at(record, request), record.revision
            refuse_pickled(request.label, snapshot.files, request.selection)
            files = tuple(RemoteFile(path, blob.size, blob.sha256) for path, blob in snapshot.files.items())
        else:
            with hints(request, store, settings):
                listed = resolve(request, sources)
            ref, revision = listed.pinned, listed.id
            files, selection = select(request, listed)
            snapshot, known = recorded(request, listed, files, selection, store, settings)
        gate.refuse(request, settings, ref, files)
        if snapshot is not None:
            gate.check_promised(request, snapshot.files, ref)
        else:
            digests = ((file, known[file.path].sha256 if file.path in known else file.sha256) for file in files)
            missing = [file for file, sha256 in digests if not (sha256 and os.path.lexists(store.blob(sha256)))]
        total, to_load = (sum(file.size or 0 for file in some) for some in (files, missing))
        which = request.name, request.canonical, revision or None
        return PlannedAdapter(*which, len(files), total, len(missing), to_load)

    def failed(request: Request, error: LoraCliError) -> PlannedAdapter:
        reported = error_report(error)
        return PlannedAdapter(request.name, request.canonical, exit_code=error.exit_code, error=reported)

    yield from ordered_parallel_map(planned, requests, settings, failed)
