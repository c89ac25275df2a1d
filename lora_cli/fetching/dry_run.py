"""``fetch --dry-run``: what a fetch would download. Nothing is written, not even in the cache."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from lora_cli.core.adapter_request import AdapterRequest, Selection
from lora_cli.core.reference import AdapterRef
from lora_cli.core.snapshot import RemoteFile
from lora_cli.errors import LoraCliError
from lora_cli.fetching.batch import ordered_parallel_map
from lora_cli.fetching.cached_source import CacheFirstSource
from lora_cli.fetching.checkpoint import LatestCheckpoint
from lora_cli.fetching.file_selection import select_files
from lora_cli.fetching.locked_files import select_locked
from lora_cli.fetching.requirements import check_allowed, check_count, check_reference, check_size
from lora_cli.fetching.resolution_history import FetchPlan, known_blobs, read_records
from lora_cli.settings import Settings
from lora_cli.sources.registry import Sources, endpoints_of
from lora_cli.store import Store


@dataclass(frozen=True, slots=True)
class Planned:
    """One adapter: the revision that it means now, its files, and those of them that are not in the cache."""

    request: AdapterRequest
    revision: str = ""
    files: tuple[RemoteFile, ...] = ()
    missing: tuple[RemoteFile, ...] = ()
    error: LoraCliError | None = None


def plan_all(requests: Sequence[AdapterRequest], store: Store, settings: Settings) -> Iterator[Planned]:
    """The plan for each request, in their order: origins are asked for listings, and no file is downloaded."""
    sources = Sources(settings, [one.source for one in requests if isinstance(one.source, AdapterRef)])

    def one(request: AdapterRequest) -> Planned:
        try:
            return _plan(request, sources, store, settings)
        except LoraCliError as error:
            return Planned(request, error=error)

    yield from ordered_parallel_map(one, requests, settings.jobs)


def _plan(request: AdapterRequest, sources: Sources, store: Store, settings: Settings) -> Planned:
    ref, selection, locked = request.ref, request.selection, request.locked
    check_reference(request, settings)
    origin = LatestCheckpoint(sources.of(ref)) if selection.latest else sources.of(ref)
    cache_first = CacheFirstSource(origin, settings, Selection(latest=selection.latest), locked)
    # A cached snapshot does not show which other files the origin has.
    source = origin if selection.chosen else cache_first
    revision = source.resolve(request.locked_ref)
    files = select_files(revision, selection)
    missing: tuple[RemoteFile, ...] = ()
    if source is origin or not cache_first.holds(revision):
        if locked is not None:
            files, selection = select_locked(revision, locked, selection, files)
        plan = FetchPlan(ref, revision, files, selection, endpoints_of(ref, settings)[-1])
        known = known_blobs(plan, read_records(store, plan))
        digests = {file.path: known[file.path].sha256 if file.path in known else file.sha256 for file in files}
        missing = tuple(
            file for file in files if not ((sha256 := digests[file.path]) and os.path.lexists(store.blob(sha256)))
        )
    check_allowed(replace(request, source=revision.ref), settings, files=files)
    check_count(request.label, len(files), settings.max_files)
    check_size(request.label, sum(file.size or 0 for file in files), settings.max_bytes)
    return Planned(request, revision.id, files, missing)
