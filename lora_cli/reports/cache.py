"""What ``cache`` shows: the JSON document of ``ls``, and what people read."""

import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from lora_cli.fetching.batch import Outcome
from lora_cli.reports.terminal import Paragraph, facts, separated, table, text
from lora_cli.store import Store
from lora_cli.store.gc import Removed
from lora_cli.store.inventory import StoredSnapshot, Verified, tree_bytes
from lora_cli.store.snapshots import is_digest
from lora_cli.text import counted, safe, size
from lora_cli.version import __version__

if TYPE_CHECKING:
    from lora_cli.reports.terminal import Parts

SHORT = 12
"""Digits of a digest that are shown."""

AGES = ((86400 * 365, "year"), (86400 * 30, "month"), (86400, "day"), (3600, "hour"), (60, "minute"))

Document = Mapping[str, object]


def document(store: Store, items: Sequence[StoredSnapshot], blob_bytes: int) -> Document:
    """The JSON document of ``ls``; ``blob_bytes`` are those of all blobs."""
    snapshots = [
        {
            "sha256": item.digest,
            "directory": item.directory,
            "bytes": sum(item.files.values()),
            **_used(item.used_s),
            "references": [
                {"ref": one.ref, "selection": one.selection, "revision": one.revision, "origin": one.endpoint}
                | _used(one.used_s)
                for one in item.records
            ],
            "files": [{"path": path, "sha256": sha256, "bytes": number} for path, sha256, number in _files(item)],
        }
        for item in items
    ]
    about = {"schema": "lora_cli/cache/1", "version": __version__, "cache": store.root}
    return {**about, "bytes": blob_bytes, "snapshots": snapshots}


def _used(used_s: float) -> dict[str, object]:
    """When it was last used: in seconds since 1970, and if it ever was in ISO 8601 and UTC."""
    used_at = f"{datetime.fromtimestamp(used_s, UTC):%Y-%m-%dT%H:%M:%SZ}"
    return {"used_s": used_s, "used_at": used_at} if used_s else {"used_s": used_s}


def _files(item: StoredSnapshot) -> list[tuple[str, str, int]]:
    """Each file's path, its sha256 if a reference means it, and its bytes."""
    digests = {path: blob.sha256 for record in item.records for path, blob in record.files.items()}
    return [(path, digests.get(path, ""), number) for path, number in sorted(item.files.items())]


def human(store: Store, items: Sequence[StoredSnapshot], blob_bytes: int) -> "Parts":
    """The table of ``ls``, the last used snapshot first, and the total size."""
    rows = [
        (
            one.digest[:SHORT],
            _shortest(known.ref for known in one.records) or "unreferenced",
            len(one.files),
            size(sum(one.files.values())),
            _ago(time.time() - one.used_s) if one.used_s else "-",
        )
        for one in items
    ]
    if rows:
        yield table(("snapshot", "reference", "files", "size", "used"), rows, left=2)
    unfinished = tree_bytes(store.partials)
    more = f"; unfinished downloads: {size(unfinished)}" if unfinished else ""
    yield Paragraph(f"{counted(len(rows), 'snapshot')}, {size(blob_bytes)} on this disk{more}")


def human_details(items: Sequence[StoredSnapshot]) -> "Parts":
    """All of each snapshot: its references and files."""
    return separated(*map(_details, items))


def _details(one: StoredSnapshot) -> "Parts":
    rows = [("snapshot", one.digest), ("directory", one.directory), ("size", size(sum(one.files.values())))]
    yield from facts([*rows, ("used", _used(one.used_s).get("used_at"))], 0)
    for known in one.records:
        yield from ("", text(known.ref))
        yield from facts([("revision", known.revision), ("selection", known.selection), ("origin", known.endpoint)])
    files = [(path, sha256[:SHORT], size(number)) for path, sha256, number in _files(one)]
    yield from ("", table(("file", "sha256", "size"), files, left=2))


def _shortest(references: Iterable[str]) -> str:
    """The shortest of ``references``, with the number of others; empty without references."""
    first, *others = sorted({*references}, key=lambda ref: (len(ref), ref)) or [""]
    return safe(first) + (f" (+{len(others)})" if others else "")


def _ago(seconds: float) -> str:
    """``2 hours ago``."""
    return next((f"{counted(int(seconds // s), unit)} ago" for s, unit in AGES if seconds >= s), "just now")


def human_verified(found: Sequence[Verified], repaired: Sequence[Outcome] | None) -> "Parts":
    """Corrupt and repaired files, and a summary."""
    rotten = [one for one in found if one.problem]
    for one in rotten:
        outcome = "removed" if one.removed else "it could not be removed"
        yield Paragraph(f"{one.kind} {one.path}: {one.problem}; {outcome}", text(("corrupt ", "red")))
    for again in repaired or ():
        what = f"snapshot {again.request.sha256}"
        if again.error is None:
            yield Paragraph(f"{what} from {again.request.name}", text(("repaired ", "green")))
        else:
            hint = f" (hint: {again.error.hint})" if again.error.hint else ""
            yield Paragraph(f"{what}: {again.error.message}{hint}", text(("not repaired: ", "red")))
    number, failed = sum(one.kind == "snapshot" for one in found), sum(one.error is not None for one in repaired or ())
    total = size(sum(one.size for one in found if one.kind == "blob"))
    result = (f"{len(rotten)} corrupt" if rotten else "no corruption") + (f", {failed} not repaired" if failed else "")
    yield Paragraph(f"{counted(number, 'adapter')} verified ({total}): {result}")


def human_removed(removed: Sequence[Removed], *, dry_run: bool = False, verbose: bool = False) -> "Parts":
    """The removed adapters with the freed bytes; with ``verbose`` every reference and blob."""
    known = {ref for one in removed for ref in one.references or ()}
    rows = []
    for one in removed:
        if verbose or not (one.kind == "blob" or one.name in known):
            name, kind = one.name[:SHORT] if is_digest(one.name) else one.name, one.kind
            if kind == "snapshot" and not verbose:
                kind, name = "adapter", _shortest(one.references or ()) or name
            rows.append((kind, name, size(one.bytes) if one.bytes else "-"))
    if rows:
        yield table(("kind", "name", "size"), rows, left=2)
    number, total = sum(one.kind == "snapshot" for one in removed), size(sum(one.bytes for one in removed))
    yield f"{'would free' if dry_run else 'freed'} {total}" + (f": {counted(number, 'adapter')}" if number else "")
