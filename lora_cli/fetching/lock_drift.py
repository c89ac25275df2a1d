"""``fetch --check``: a lock compared with what the origins have now. Nothing is written, not even in the cache."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lora_cli.core.grouping import by_key
from lora_cli.core.json_schema import EXCLUDED, Count, ErrorReport, error_report
from lora_cli.core.reference import AdapterRef
from lora_cli.core.request import Request, Selection
from lora_cli.core.snapshot import Blob, RemoteFile, Revision
from lora_cli.errors import LoraCliError, Offline
from lora_cli.fetching.batch import ordered_parallel_map
from lora_cli.fetching.checkpoint import resolve
from lora_cli.fetching.file_selection import select_files
from lora_cli.fetching.locked_files import sha256_from
from lora_cli.fetching.requirements import check_allowed
from lora_cli.fetching.scheduler import Deadline
from lora_cli.settings import Settings
from lora_cli.sources import Source
from lora_cli.sources.registry import Sources
from lora_cli.store import Store
from lora_cli.store.resolution_records import Record, all_records, commit_of, conflicting

if TYPE_CHECKING:
    from lora_cli.core.lock import LockedAdapter

MAX_HASHED_BYTES = 16 << 20
"""Remote files whose origin has no sha256 are read and hashed up to this size; larger ones may have changed."""


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
    locked_version: str | None = field(default=None, metadata=EXCLUDED)
    """The revision in the lock, or the digest of what has none."""


def checked_adapter(
    request: Request, changes: Sequence[str] = (), now: str = "", error: LoraCliError | None = None
) -> CheckedAdapter:
    """One adapter with its ``changes``, a sentence each; ``now`` is the origin's revision ("" if it was not asked)."""
    locked = request.locked
    return CheckedAdapter(
        name=request.name,
        ref=request.canonical,
        locked=None if locked is None else locked.revision,
        now=now or None,
        drift=changes,
        exit_code=error.exit_code if error is not None else int(bool(changes)),
        error=error_report(error),
        locked_version=None if locked is None else locked.revision or locked.digest,
    )


def find_drift(requests: Sequence[Request], settings: Settings) -> Iterator[CheckedAdapter]:
    """The changes at each origin since it was locked, in the order of ``requests``; those without a lock have none.

    Cached files of a locked commit are compared, too: a server that sent other bytes for it sent wrong ones.
    """
    sources = Sources(settings)
    cached = by_key((commit_of(record), record) for record in all_records(Store(settings.cache_dir)))

    def one(request: Request) -> CheckedAdapter:
        locked = request.locked
        if locked is None:
            return checked_adapter(request)
        try:
            ref = request.ref
            check_allowed(request, settings)
            conflicts = tuple(_cache_conflicts(ref, locked, cached))
            if ref.pinned and ref.revision == locked.revision:
                return checked_adapter(request, conflicts, locked.revision)
            if settings.offline and ref.scheme != "file":
                raise Offline(f"{ref} cannot be checked, offline mode is on", hint="remove --offline")
            source = sources.of(ref)
            revision = resolve(source, ref, latest=request.selection.latest)
            return checked_adapter(
                request, (*conflicts, *_changes(locked, revision, source, request.selection)), revision.id
            )
        except LoraCliError as error:
            return checked_adapter(request, error=error)

    yield from ordered_parallel_map(
        one,
        requests,
        settings,
        lambda request: checked_adapter(request, error=Deadline.of(request.name, settings).error()),
    )


def _cache_conflicts(ref: AdapterRef, locked: "LockedAdapter", cached: Mapping[str, Sequence[Record]]) -> Iterator[str]:
    """Cached files that were fetched as the locked commit and differ from the lock."""
    commit = commit_of(Record(str(ref), "", locked.revision, locked.digest, locked.files))
    for record, path in conflicting(locked.files, cached.get(commit, ()) if commit else ()):
        yield f"{path} of the locked commit has other bytes in the cache, which {record.server} sent"


def _changes(locked: "LockedAdapter", revision: Revision, source: Source, selection: Selection) -> Iterator[str]:
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
        elif change := _change(file, blob, revision, source):
            yield f"{path} {change}"


def _change(file: RemoteFile, blob: Blob, revision: Revision, source: Source) -> str:
    if file.size not in {None, blob.size}:
        return f"changed from {blob.size} to {file.size} bytes"
    if file.sha256 is not None:
        return "" if file.sha256 == blob.sha256 else "has different bytes"
    if revision.ref.scheme != "file" and blob.size > MAX_HASHED_BYTES:
        return f"may have changed: the source has no sha256, and {blob.size} bytes are too many to read and compare"
    return "" if sha256_from(source, revision, file, blob.size) == blob.sha256 else "has different bytes"
