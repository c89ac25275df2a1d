"""What ``fetch`` and ``cache`` say to machines."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_cli.core.lock import Changes
from lora_cli.errors import UsageError
from lora_cli.fetching.drift import Drift
from lora_cli.fetching.many import Handed, Wanted
from lora_cli.render.json import document
from lora_cli.store import Store
from lora_cli.store.inventory import Item
from lora_cli.store.sweep import Removed
from lora_cli.store.verify import Verified

if TYPE_CHECKING:
    from lora_cli.fetching.mend import Mended


def render_outcomes(done: Sequence[Handed], lock: Path | None = None, changes: Changes | None = None) -> str:
    """The document of ``fetch``: each adapter's snapshot and where it can be used, or its error; and the lock."""
    adapters = [_outcome(handed) for handed in done]
    code, told = max((handed.outcome.exit_code for handed in done), default=0), changes or Changes()
    locked = {"file": str(lock), "added": told.added, "changed": told.changed, "removed": told.removed}
    return document("fetch", {"adapters": adapters, "lock": None if lock is None else locked, "exit_code": code})


def render_drifts(drifts: Sequence[Drift], left_over: Sequence[str], lock: Path) -> str:
    """The document of ``fetch --check``: what changed of each adapter since it was locked, or its error."""
    adapters = [
        {
            "name": drift.wanted.name,
            "ref": _ref(drift.wanted),
            "locked": None if drift.wanted.locked is None else drift.wanted.locked.revision,
            "now": drift.now or None,
            "drift": list(drift.changes),
            "exit_code": drift.exit_code,
            "error": None if drift.error is None else {"message": drift.error.message, "hint": drift.error.hint},
        }
        for drift in drifts
    ]
    code = max([drift.exit_code for drift in drifts] + [int(bool(left_over))])
    body = {"lock": str(lock), "adapters": adapters, "left_over": list(left_over), "exit_code": code}
    return document("fetch-check", body)


def _ref(wanted: Wanted) -> str | None:
    return None if isinstance(wanted.ref, UsageError) else str(wanted.ref)


def _outcome(handed: Handed) -> dict[str, Any]:
    outcome, directory, published = handed.outcome, handed.directory, handed.published
    body: dict[str, Any] = {
        "name": outcome.wanted.name,
        "ref": _ref(outcome.wanted),
        "milliseconds": outcome.ms,
        "exit_code": outcome.exit_code,
        "error": None,
    }
    if outcome.error is not None:
        body["error"] = {"message": outcome.error.message, "hint": outcome.error.hint}
    if outcome.fetched is not None:
        snapshot, left = outcome.fetched.snapshot, outcome.fetched.left_out
        body |= {
            "revision": outcome.fetched.revision,
            "cached": outcome.fetched.cached,
            "sha256": snapshot.digest,
            "bytes": snapshot.size,
            "left_out": None if left is None else {"files": left.files, "bytes": left.bytes},
            "directory": None if directory is None else str(directory),
            "published": None
            if published is None
            else {"base": published.base, "was": published.was, "sha256": published.digest},
            "files": [
                {"path": path, "sha256": blob.sha256, "bytes": blob.size} for path, blob in snapshot.files.items()
            ],
        }
    return body


def render_items(store: Store, items: Sequence[Item], blob_bytes: int) -> str:
    """The document of ``ls`` and ``show``: every snapshot with its files and references.

    ``bytes`` is all blobs' and the packed weights of ``items``. How much is in memory stands where it was asked.
    """
    total = blob_bytes + sum(item.packed_bytes for item in items)
    body = {"cache": str(store.root), "bytes": total, "snapshots": [_item(item) for item in items]}
    return document("cache", body)


def _item(item: Item) -> dict[str, Any]:
    return {
        "sha256": item.digest,
        "names": list(item.names),
        "directory": str(item.directory),
        "bytes": item.size,
        "packed_bytes": item.packed_bytes,
        **_residency(item),
        "used_s": item.used_s,
        "references": [
            {
                "ref": record.ref,
                "selection": record.selection,
                "revision": record.revision,
                "origin": record.endpoint,
                "access": record.access,
                "used_s": record.used_s,
            }
            for record in item.records
        ],
        "files": [{"path": path, "bytes": size} for path, size in sorted(item.files.items())],
    }


def _residency(item: Item) -> dict[str, int | None]:
    """Bytes in the page cache, null where the system hides them; nothing where nobody asked."""
    if item.resident is None or item.packed_resident is None:
        return {}
    resident, packed = item.resident.resident_bytes, item.packed_resident.resident_bytes
    return {"resident_bytes": resident, "packed_resident_bytes": packed}


def render_verified(found: Sequence[Verified], mended: "Sequence[Mended] | None" = None) -> str:
    """The document of ``verify``: how much was hashed, what is rotten, and what was ``mended`` (None: not tried)."""
    rotten = [
        {
            "kind": one.kind,
            "path": str(one.path),
            "problem": one.problem,
            "moved_to": None if one.moved_to is None else str(one.moved_to),
        }
        for one in found
        if one.problem
    ]
    blobs = [one for one in found if one.kind == "blob"]
    counts: dict[str, Any] = {
        f"{kind}s": sum(one.kind == kind for one in found) for kind in ("blob", "snapshot", "view")
    }
    counts["packed"] = sum(one.kind == "packed" for one in found)
    counts["bytes"] = sum(one.size for one in blobs)
    repaired = None if mended is None else [_mended(one) for one in mended]
    return document("cache-verify", {**counts, "rotten": rotten, "repaired": repaired})


def _mended(one: "Mended") -> dict[str, Any]:
    error = None if one.error is None else {"message": one.error.message, "hint": one.error.hint}
    return {"kind": one.kind, "name": one.name, "ref": one.ref or None, "error": error}


def render_removed(removed: Sequence[Removed], *, dry_run: bool = False) -> str:
    """The document of ``gc`` and ``rm``."""
    things = [{"kind": one.kind, "name": one.name, "bytes": one.size} for one in removed]
    body = {"dry_run": dry_run, "bytes": sum(one.size for one in removed), "removed": things}
    return document("cache-removed", body)
