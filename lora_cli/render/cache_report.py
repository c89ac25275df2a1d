"""The reports of ``cache``, of which JSON is the fields."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Literal

from lora_cli.fetching.cache_repair import Repaired
from lora_cli.json_schema import EXCLUDED, Count, Keyword, NonNegative, Sha256, Version
from lora_cli.render.fetch_report import SnapshotFile
from lora_cli.store import Store
from lora_cli.store.gc import Removed
from lora_cli.store.inventory import StoredSnapshot, tree_bytes
from lora_cli.store.verify import Verified
from lora_cli.version import __version__

Time = Annotated[
    str, Keyword("format", "date-time"), Keyword("description", "When it was last used, in ISO 8601 and UTC.")
]


@dataclass(frozen=True, slots=True)
class CachedReference:
    """One reference that means a snapshot."""

    ref: str
    selection: str
    """Which files were wanted; empty for the usual ones."""
    revision: str
    origin: str
    """The server that was asked; empty for this machine."""
    used_s: NonNegative
    """When it was last used, in seconds since 1970."""
    used_at: Time | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedSnapshot:
    """One snapshot on this disk."""

    sha256: Sha256
    directory: str
    bytes: Count
    used_s: NonNegative
    """When it was last used, in seconds since 1970; 0 if no reference means it."""
    used_at: Time | None = None
    references: Sequence[CachedReference]
    files: Sequence[SnapshotFile]


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheReport:
    """What is in the cache. A field may be added under the same number; a change of meaning makes a new number."""

    schema: Literal["lora_cli/cache/1"] = "lora_cli/cache/1"
    version: Version = __version__
    cache: str
    bytes: Count
    """What all blobs take."""
    snapshots: Sequence[CachedSnapshot]
    partial_bytes: int = field(default=0, metadata=EXCLUDED)
    """What unfinished downloads take."""


def cache_report(
    store: Store,
    items: Sequence[StoredSnapshot],
    blob_bytes: int,
) -> CacheReport:
    """The report of ``ls`` and ``show``; ``blob_bytes`` are those of all blobs."""
    snapshots = [_snapshot(item) for item in items]
    return CacheReport(
        cache=str(store.root), bytes=blob_bytes, snapshots=snapshots, partial_bytes=tree_bytes(store.partials)
    )


def _snapshot(item: StoredSnapshot) -> CachedSnapshot:
    digests = {path: blob.sha256 for record in item.records for path, blob in record.files.items()}
    return CachedSnapshot(
        sha256=item.digest,
        directory=str(item.directory),
        bytes=sum(item.files.values()),
        used_s=item.used_s,
        used_at=_time(item.used_s),
        references=[
            CachedReference(
                one.ref,
                one.selection,
                one.revision,
                one.endpoint,
                one.used_s,
                _time(one.used_s),
            )
            for one in item.records
        ],
        files=[SnapshotFile(path, digests.get(path, ""), size) for path, size in sorted(item.files.items())],
    )


def _time(used_s: float) -> str | None:
    """``2026-01-31T23:59:59Z``; None if it was never used."""
    return f"{datetime.fromtimestamp(used_s, UTC):%Y-%m-%dT%H:%M:%SZ}" if used_s else None


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyReport:
    """What was hashed. A field may be added under the same number; a change of meaning makes a new number."""

    schema: Literal["lora_cli/cache-verify/1"] = "lora_cli/cache-verify/1"
    version: Version = __version__
    blobs: Count
    snapshots: Count
    bytes: Count
    """Those of all blobs."""
    rotten: Sequence[Verified]
    repaired: Sequence[Repaired] | None
    """Null without --repair."""


def verify_report(found: Sequence[Verified], mended: Sequence[Repaired] | None) -> VerifyReport:
    """The report of ``verify``; ``mended`` is None without ``--repair``."""
    kinds = Counter(one.kind for one in found)
    return VerifyReport(
        blobs=kinds["blob"],
        snapshots=kinds["snapshot"],
        bytes=sum(one.size for one in found if one.kind == "blob"),
        rotten=[one for one in found if one.problem],
        repaired=mended,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RemovedReport:
    """What gc or rm removed. A field may be added under the same number; a change of meaning makes a new number."""

    schema: Literal["lora_cli/cache-removed/1"] = "lora_cli/cache-removed/1"
    version: Version = __version__
    dry_run: bool
    """True where nothing was removed."""
    bytes: Count
    removed: Sequence[Removed]


def removed_report(removed: Sequence[Removed], *, dry_run: bool = False) -> RemovedReport:
    """The report of ``gc`` and ``rm``."""
    return RemovedReport(dry_run=dry_run, bytes=sum(one.bytes for one in removed), removed=removed)
