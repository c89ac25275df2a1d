"""What ``cache`` says to people."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from lora_cli.core.text import counted, safe, share, size
from lora_cli.render.text import columns, paint, pairs
from lora_cli.store.inventory import Item
from lora_cli.store.verify import Verified

if TYPE_CHECKING:
    from lora_cli.fetching.mend import Mended
    from lora_cli.store.residency import Resident
    from lora_cli.store.sweep import Removed

SHORT = 12


def render_items(items: Sequence[Item], blob_bytes: int, width: int | None = None) -> str:
    """The table of ``ls``, the last used snapshot first, and what all of them take on this disk.

    Where it is wider than ``width`` (None: no limit) each snapshot is a block of lines.
    """
    rows = [
        [
            item.digest[:SHORT],
            safe(" ".join(item.names)),
            _references(item),
            counted(len(item.files), "file"),
            size(item.size),
            *([_in_memory(item.resident)] if item.resident is not None else []),
            _when(item.used_s),
        ]
        for item in items
    ]
    asked = any(item.resident is not None for item in items)
    header = ["snapshot", "name", "reference", "files", "size", *(["in memory"] if asked else []), "used"]
    table = columns(header, rows, left=3) if rows else []
    if width is not None and max(map(len, table), default=0) > width:
        table = [line for row in rows for line in _block(row, width)]
    packed_bytes = sum(item.packed_bytes for item in items)
    total = f"{counted(len(items), 'snapshot')}, {size(blob_bytes + packed_bytes)} on this disk"
    total += f", {size(packed_bytes)} of it packed weights" if packed_bytes else ""
    return "\n".join([*table, total]) + "\n"


def _block(row: Sequence[str], width: int) -> list[str]:
    digest, name, reference, files, taken, *in_memory, used = row
    rows = [("name", name), ("ref", reference), ("size", f"{taken}, {files}")]
    rows += [("in memory", share_told) for share_told in in_memory]
    rows.append(("used", used))
    return [digest, *pairs(rows, width)]


def render_item(item: Item, width: int) -> str:
    """All about one snapshot: what means it, and each file."""
    lines = pairs(
        [
            ("snapshot", item.digest),
            ("name", " ".join(item.names)),
            ("directory", item.directory),
            ("size", _with_memory(item.size, item.resident)),
            ("packed", _with_memory(item.packed_bytes, item.packed_resident) if item.packed_bytes else ""),
            ("used", _when(item.used_s)),
        ],
        width,
        "",
    )
    for record in item.records:
        lines += ["", record.ref]
        lines += pairs(
            [
                ("revision", record.revision),
                ("selection", record.selection),
                ("origin", record.endpoint),
                ("access", record.access),
            ],
            width,
        )
    digests = {path: blob.sha256 for record in item.records for path, blob in record.files.items()}
    rows = [[path, digests.get(path, "")[:SHORT], size(count)] for path, count in sorted(item.files.items())]
    return "\n".join([*lines, "", *columns(["file", "sha256", "size"], rows, left=2)]) + "\n"


def render_verified(
    found: Sequence[Verified], mended: "Sequence[Mended] | None" = None, *, colour: bool = False
) -> str:
    """What is rotten, what was ``mended`` (None: nothing was tried), and a last line that counts."""
    rotten_ones = paint("rotten", "red", colour=colour)
    lines = [
        f"{rotten_ones} {one.kind} {safe(one.path)}: {safe(one.problem)}; {_left(one)}" for one in found if one.problem
    ]
    kinds = [one.kind for one in found]
    taken = sum(one.size for one in found if one.kind == "blob")
    counts = [
        f"{counted(kinds.count('blob'), 'blob')} ({size(taken)})",
        counted(kinds.count("snapshot"), "snapshot"),
        counted(kinds.count("view"), "view"),
        *([f"{kinds.count('packed')} packed"] if "packed" in kinds else []),
    ]
    told = f"{', '.join(counts[:-1])} and {counts[-1]}"
    rotten = counted(len(lines), "rotten one")
    for mending in mended or ():
        if mending.error is None:
            origin = f" from {safe(mending.ref)}" if mending.ref else ""
            lines.append(f"{paint('repaired', 'green', colour=colour)} {mending.kind} {safe(mending.name)}{origin}")
        else:
            hint = f" (hint: {safe(mending.error.hint)})" if mending.error.hint else ""
            lines.append(
                f"{paint('not repaired', 'red', colour=colour)}: {mending.kind} {safe(mending.name)}: "
                f"{safe(mending.error.message)}{hint}"
            )
    lines.append(f"{told} hashed, {rotten}")
    return "\n".join(lines) + "\n"


def _left(one: Verified) -> str:
    """What became of something rotten, or what to do about it."""
    if one.kind == "record":
        return "remove both with `lora-cli cache rm`, and fetch it again from the server that you trust"
    return f"moved to {one.moved_to}" if one.moved_to is not None else "it could not be moved away"


def render_removed(removed: "Sequence[Removed]", *, dry_run: bool = False) -> str:
    """What went, and how many bytes that freed."""
    word = "would remove" if dry_run else "removed"
    lines = [f"{word} {one.kind} {safe(one.name)}" + (f" ({size(one.size)})" if one.size else "") for one in removed]
    kinds = {one.kind for one in removed}
    why = ": their files wait for cache gc, or others need them" if "snapshot" in kinds and "blob" not in kinds else ""
    lines.append(f"{size(sum(one.size for one in removed))} {'would be ' if dry_run else ''}freed{why}")
    return "\n".join(lines) + "\n"


def _with_memory(taken: int, resident: "Resident | None") -> str:
    told = "" if resident is None else f", {_in_memory(resident)} of it in the page cache"
    return size(taken) + told


def _in_memory(resident: "Resident") -> str:
    return share(resident.resident_bytes, resident.bytes)


def _references(item: Item) -> str:
    """The shortest reference, and how many more there are."""
    refs = sorted({record.ref for record in item.records}, key=lambda ref: (len(ref), ref))
    if not refs:
        return "(none)"
    return refs[0] + (f" (+{len(refs) - 1})" if len(refs) > 1 else "")


def _when(used_s: float) -> str:
    return datetime.fromtimestamp(used_s, UTC).strftime("%Y-%m-%d %H:%M:%SZ") if used_s else ""
