"""What ``fetch`` and ``cache`` say to machines."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lora_cli.errors import UsageError
from lora_cli.fetch.many import Outcome
from lora_cli.render.json import document
from lora_cli.store import Store
from lora_cli.store.inventory import Item
from lora_cli.store.sweep import Removed
from lora_cli.store.verify import Verified


def render_outcomes(outcomes: Sequence[tuple[Outcome, Path | None]]) -> str:
    """The document of ``fetch``: each adapter's snapshot, where it can be used, or its error."""
    adapters = [_outcome(outcome, directory) for outcome, directory in outcomes]
    code = max((outcome.exit_code for outcome, _ in outcomes), default=0)
    return document("fetch", {"adapters": adapters, "exit_code": code})


def _outcome(outcome: Outcome, directory: Path | None) -> dict[str, Any]:
    body: dict[str, Any] = {
        "name": outcome.wanted.name,
        "ref": None if isinstance(outcome.wanted.ref, UsageError) else str(outcome.wanted.ref),
        "milliseconds": outcome.ms,
        "exit_code": outcome.exit_code,
        "error": None,
    }
    if outcome.error is not None:
        body["error"] = {"message": outcome.error.message, "hint": outcome.error.hint}
    if outcome.fetched is not None:
        snapshot = outcome.fetched.snapshot
        body |= {
            "revision": outcome.fetched.revision,
            "cached": outcome.fetched.cached,
            "sha256": snapshot.digest,
            "bytes": snapshot.size,
            "directory": None if directory is None else str(directory),
            "files": [
                {"path": path, "sha256": blob.sha256, "bytes": blob.size} for path, blob in snapshot.files.items()
            ],
        }
    return body


def render_items(store: Store, items: Sequence[Item], blob_bytes: int) -> str:
    """The document of ``ls`` and ``show``: every snapshot with its files and references; ``bytes`` is all blobs'."""
    body = {"cache": str(store.root), "bytes": blob_bytes, "snapshots": [_item(item) for item in items]}
    return document("cache", body)


def _item(item: Item) -> dict[str, Any]:
    return {
        "sha256": item.digest,
        "names": list(item.names),
        "directory": str(item.directory),
        "bytes": item.size,
        "used_s": item.used_s,
        "references": [
            {
                "ref": record.ref,
                "selection": record.selection,
                "revision": record.revision,
                "origin": record.origin,
                "access": record.access,
                "used_s": record.used_s,
            }
            for record in item.records
        ],
        "files": [{"path": path, "bytes": size} for path, size in sorted(item.files.items())],
    }


def render_verified(found: Sequence[Verified]) -> str:
    """The document of ``verify``: how much was hashed, and what is rotten."""
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
    counts["bytes"] = sum(one.size for one in blobs)
    return document("cache-verify", {**counts, "rotten": rotten})


def render_removed(removed: Sequence[Removed], *, dry_run: bool = False) -> str:
    """The document of ``gc`` and ``rm``."""
    things = [{"kind": one.kind, "name": one.name, "bytes": one.size} for one in removed]
    body = {"dry_run": dry_run, "bytes": sum(one.size for one in removed), "removed": things}
    return document("cache-removed", body)
