"""What ``fetch`` and ``cache`` say to machines."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_cli.core.lock import Changes
from lora_cli.errors import LoraCliError, UsageError
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
    code, told = max((handed.outcome.exit_code for handed in done), default=0), changes or Changes()
    locked = {"file": lock, "added": told.added, "changed": told.changed, "removed": told.removed}
    adapters = [_outcome(handed) for handed in done]
    return document("fetch", {"adapters": adapters, "lock": None if lock is None else locked, "exit_code": code})


def render_drifts(drifts: Sequence[Drift], left_over: Sequence[str], lock: Path) -> str:
    """The document of ``fetch --check``: what changed of each adapter since it was locked, or its error."""
    adapters = [
        {
            **_wanted(drift.wanted),
            "locked": drift.wanted.locked and drift.wanted.locked.revision,
            "now": drift.now or None,
            "drift": drift.changes,
            "exit_code": drift.exit_code,
            "error": _error(drift.error),
        }
        for drift in drifts
    ]
    code = max([drift.exit_code for drift in drifts] + [int(bool(left_over))])
    return document("fetch-check", {"lock": lock, "adapters": adapters, "left_over": left_over, "exit_code": code})


def _wanted(wanted: Wanted) -> dict[str, str | None]:
    return {"name": wanted.name, "ref": None if isinstance(wanted.ref, UsageError) else str(wanted.ref)}


def _error(error: LoraCliError | None) -> dict[str, str] | None:
    return None if error is None else {"message": error.message, "hint": error.hint}


def _outcome(handed: Handed) -> dict[str, Any]:
    outcome, fetched, published = handed.outcome, handed.outcome.fetched, handed.published
    body: dict[str, Any] = {
        **_wanted(outcome.wanted),
        "milliseconds": outcome.ms,
        "exit_code": outcome.exit_code,
        "error": _error(outcome.error),
    }
    if fetched is not None:
        copy = published and {"base": published.base, "was": published.was, "sha256": published.digest}
        files = fetched.snapshot.files.items()
        body |= {
            "revision": fetched.revision,
            "cached": fetched.cached,
            "sha256": fetched.snapshot.digest,
            "bytes": fetched.snapshot.size,
            "left_out": fetched.left_out,
            "directory": handed.directory,
            "published": copy,
            "files": [{"path": path, "sha256": blob.sha256, "bytes": blob.size} for path, blob in files],
        }
    return body


def render_items(store: Store, items: Sequence[Item], blob_bytes: int) -> str:
    """The document of ``ls`` and ``show``: every snapshot with its files and references.

    ``bytes`` is all blobs' and the packed weights of ``items``. How much is in memory stands where it was asked.
    """
    total = blob_bytes + sum(item.packed_bytes for item in items)
    return document("cache", {"cache": store.root, "bytes": total, "snapshots": [_item(item) for item in items]})


def _item(item: Item) -> dict[str, Any]:
    memory = {"resident_bytes": item.resident, "packed_resident_bytes": item.packed_resident}
    return {
        "sha256": item.digest,
        "names": item.names,
        "directory": item.directory,
        "bytes": item.size,
        "packed_bytes": item.packed_bytes,
        # Null where the system hides it; nothing where nobody asked.
        **{key: resident.resident_bytes for key, resident in memory.items() if resident is not None},
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


def render_verified(found: Sequence[Verified], mended: "Sequence[Mended] | None" = None) -> str:
    """The document of ``verify``: how much was hashed, what is rotten, and what was ``mended`` (None: not tried)."""
    kinds = Counter(one.kind for one in found)
    repaired = [
        {"kind": one.kind, "name": one.name, "ref": one.ref or None, "error": _error(one.error)} for one in mended or ()
    ]
    body = {
        "blobs": kinds["blob"],
        "snapshots": kinds["snapshot"],
        "views": kinds["view"],
        "packed": kinds["packed"],
        "bytes": sum(one.size for one in found if one.kind == "blob"),
        "rotten": [
            {"kind": one.kind, "path": one.path, "problem": one.problem, "moved_to": one.moved_to}
            for one in found
            if one.problem
        ],
        "repaired": None if mended is None else repaired,
    }
    return document("cache-verify", body)


def render_removed(removed: Sequence[Removed], *, dry_run: bool = False) -> str:
    """The document of ``gc`` and ``rm``."""
    things = [{"kind": one.kind, "name": one.name, "bytes": one.size} for one in removed]
    return document("cache-removed", {"dry_run": dry_run, "bytes": sum(one.size for one in removed), "removed": things})
