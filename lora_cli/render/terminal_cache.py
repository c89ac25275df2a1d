"""What ``cache`` prints for people."""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from rich.console import RenderableType

from lora_cli.core.text import counted, cut, safe, share, size
from lora_cli.render.terminal import FittedTable, Paragraph, facts, rendered, table, table_or_blocks, text
from lora_cli.store.inventory import Item
from lora_cli.store.snapshots import is_digest
from lora_cli.store.verify import Verified

if TYPE_CHECKING:
    from lora_cli.fetching.mend import Mended
    from lora_cli.store.residency import Resident
    from lora_cli.store.sweep import Removed

SHORT = 12
SHORTEST_REFERENCE = 14
AGES = ((86400 * 365, "year"), (86400 * 30, "month"), (86400, "day"), (3600, "hour"), (60, "minute"))


def render_items(items: Sequence[Item], blob_bytes: int, width: int, *, now_s: float | None = None) -> str:
    """The table of ``ls``, the last used snapshot first, and what all of them take on this disk.

    References are shortened to fit ``width``, names and digests never.
    """
    now_s = time.time() if now_s is None else now_s
    asked = any(item.resident is not None for item in items)
    header = ("snapshot", "name", "reference", "files", "size", *(["in memory"] if asked else []), "used")
    rows = [_row(item, now_s) for item in items]
    packed_bytes = sum(item.packed_bytes for item in items)
    total = f"{counted(len(items), 'snapshot')}, {size(blob_bytes + packed_bytes)} on this disk"
    total += f", {size(packed_bytes)} of it packed weights" if packed_bytes else ""
    widths = [max(map(len, column)) + 2 for column in zip(header, *rows, strict=True)]
    room = width - sum(widths) + widths[2]
    if room >= SHORTEST_REFERENCE:
        rows = [(*row[:2], cut(row[2], room), *row[3:]) for row in rows]
    return rendered([*([table_or_blocks(header, rows, left=3)] if rows else []), total], width)


def _row(item: Item, now_s: float) -> tuple[str, ...]:
    """The cells of ``ls``: the reference is the shortest one, with how many more there are."""
    first, *others = sorted({record.ref for record in item.records}, key=lambda ref: (len(ref), ref)) or [""]
    reference = (safe(first) or "unreferenced") + (f" (+{len(others)})" if others else "")
    in_memory = [_in_memory(item.resident)] if item.resident is not None else []
    used = _ago(now_s - item.used_s) if item.used_s else "-"
    names = safe(" ".join(item.names))
    return (item.digest[:SHORT], names, reference, str(len(item.files)), size(item.size), *in_memory, used)


def _ago(seconds: float) -> str:
    """``2 hours ago``."""
    for unit_s, unit in AGES:
        if seconds >= unit_s:
            return f"{counted(int(seconds // unit_s), unit)} ago"
    return "just now"


def render_item(item: Item, width: int) -> str:
    """All about one snapshot: its references, and each file."""
    parts = facts(
        [
            ("snapshot", item.digest),
            ("name", " ".join(item.names)),
            ("directory", item.directory),
            ("size", _with_memory(item.size, item.resident)),
            ("packed", _with_memory(item.packed_bytes, item.packed_resident) if item.packed_bytes else ""),
            ("used", f"{datetime.fromtimestamp(item.used_s, UTC):%Y-%m-%d %H:%M:%SZ}" if item.used_s else ""),
        ],
        0,
    )
    for record in item.records:
        values = (record.revision, record.selection, record.endpoint, record.access)
        parts += ["", text(record.ref), *facts(zip(("revision", "selection", "origin", "access"), values, strict=True))]
    digests = {path: blob.sha256 for record in item.records for path, blob in record.files.items()}
    rows = [(path, digests.get(path, "")[:SHORT], size(count)) for path, count in sorted(item.files.items())]
    return rendered([*parts, "", table(("file", "sha256", "size"), rows, left=2)], width)


def verified_parts(found: Sequence[Verified], mended: "Sequence[Mended] | None") -> Iterator[RenderableType]:
    """What is corrupt, what was repaired (None: nothing was tried), and a last line that counts."""
    corrupt = [one for one in found if one.problem]
    for one in corrupt:
        yield Paragraph(f"{one.kind} {one.path}: {one.problem}; {_moved(one)}", text("corrupt ", "red"))
    for again in mended or ():
        what = f"{again.kind} {again.name}"
        if again.error is None:
            yield Paragraph(what + (f" from {again.ref}" if again.ref else ""), text("repaired ", "green"))
        else:
            hint = f" (hint: {again.error.hint})" if again.error.hint else ""
            yield Paragraph(f"{what}: {again.error.message}{hint}", text("not repaired: ", "red"))
    kinds = Counter(one.kind for one in found)
    blobs = f"{counted(kinds['blob'], 'blob')} ({size(sum(one.size for one in found if one.kind == 'blob'))})"
    counts = [blobs, counted(kinds["snapshot"], "snapshot"), counted(kinds["view"], "view")]
    counts += [f"{kinds['packed']} packed"] * ("packed" in kinds)
    told = f"{len(corrupt)} corrupt" if corrupt else "no corruption"
    yield f"{', '.join(counts[:-1])} and {counts[-1]} hashed, {told}"


def _moved(one: Verified) -> str:
    """What became of something corrupt, or what to do about it."""
    if one.kind == "record":
        return "remove both with `lora-cli cache rm`, and fetch it again from the server that you trust"
    return f"moved to {one.moved_to}" if one.moved_to is not None else "it could not be moved away"


def removed_parts(
    removed: "Sequence[Removed]", *, dry_run: bool = False, verbose: bool = False
) -> Iterator[RenderableType]:
    """What was removed, and how many bytes that freed; each single blob only if ``verbose``."""
    rows = [
        (one.kind, one.name[:SHORT] if is_digest(one.name) else one.name, size(one.size) if one.size else "-")
        for one in removed
        if verbose or one.kind != "blob"
    ]
    if rows:
        title = "would remove" if dry_run else "removed"
        lines = [Paragraph(f"{kind} {name} ({taken})".removesuffix(" (-)"), indent=2) for kind, name, taken in rows]
        yield FittedTable((title, "name", "size"), rows, [text(title, "bold"), *lines], left=2)
    kinds = Counter(one.kind for one in removed)
    why = ": their files wait for cache gc, or others need them" if "snapshot" in kinds and "blob" not in kinds else ""
    told = " and ".join(counted(kinds[kind], kind) for kind in ("snapshot", "blob") if kind in kinds)
    freed = f"{size(sum(one.size for one in removed))} {'would be ' if dry_run else ''}freed"
    yield f"{told}: {freed}{why}" if told else freed


def _with_memory(taken: int, resident: "Resident | None") -> str:
    told = "" if resident is None else f", {_in_memory(resident)} of it in the page cache"
    return size(taken) + told


def _in_memory(resident: "Resident") -> str:
    return share(resident.resident_bytes, resident.bytes)
