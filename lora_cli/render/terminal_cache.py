"""The terminal output of ``cache``."""

import time
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime

from rich.console import RenderableType

from lora_cli.render.cache_report import CachedSnapshot, CacheReport, RemovedReport, VerifyReport
from lora_cli.render.terminal import FittedTable, Paragraph, facts, separated, table, table_or_blocks, text
from lora_cli.store.gc import Removed
from lora_cli.store.snapshots import is_digest
from lora_cli.text import counted, cut, safe, size

SHORT = 12
MIN_REFERENCE_WIDTH = 14
AGES = ((86400 * 365, "year"), (86400 * 30, "month"), (86400, "day"), (3600, "hour"), (60, "minute"))


def snapshots_parts(report: CacheReport, width: int, *, details: bool = False) -> Iterator[RenderableType]:
    """The table of ``ls``, the last used snapshot first, and the total size.

    References are shortened to fit ``width``; digests are not.
    """
    if details:
        yield from separated(*map(_snapshot_parts, report.snapshots))
        return
    now_s, snapshots = time.time(), report.snapshots
    header = ("snapshot", "reference", "files", "size", "used")
    rows = [_row(one, now_s) for one in snapshots]
    total = f"{counted(len(snapshots), 'snapshot')}, {size(report.bytes)} on this disk"
    total += f"; unfinished downloads: {size(report.partial_bytes)}" if report.partial_bytes else ""
    widths = [max(map(len, column)) + 2 for column in zip(header, *rows, strict=True)]
    room = width - sum(widths) + widths[1]
    if room >= MIN_REFERENCE_WIDTH:
        rows = [(row[0], cut(row[1], room), *row[2:]) for row in rows]
    yield from [table_or_blocks(header, rows, left=3)] if rows else []
    yield total


def _row(one: CachedSnapshot, now_s: float) -> tuple[str, ...]:
    """The cells of ``ls``, with the shortest reference and the number of others."""
    reference = _shortest(known.ref for known in one.references) or "unreferenced"
    used = _ago(now_s - one.used_s) if one.used_s else "-"
    return (one.sha256[:SHORT], reference, str(len(one.files)), size(one.bytes), used)


def _shortest(references: Iterable[str]) -> str:
    """The shortest of ``references``, with the number of others; empty without references."""
    first, *others = sorted({*references}, key=lambda ref: (len(ref), ref)) or [""]
    return safe(first) + (f" (+{len(others)})" if others else "")


def _ago(seconds: float) -> str:
    """``2 hours ago``."""
    for unit_s, unit in AGES:
        if seconds >= unit_s:
            return f"{counted(int(seconds // unit_s), unit)} ago"
    return "just now"


def _snapshot_parts(one: CachedSnapshot) -> Iterator[RenderableType]:
    """All details of a snapshot: its references and files."""
    yield from facts(
        [
            ("snapshot", one.sha256),
            ("directory", one.directory),
            ("size", size(one.bytes)),
            ("used", f"{datetime.fromtimestamp(one.used_s, UTC):%Y-%m-%d %H:%M:%SZ}" if one.used_s else ""),
        ],
        0,
    )
    for known in one.references:
        yield from ("", text(known.ref))
        about = [(name, getattr(known, name)) for name in ("revision", "selection", "origin")]
        yield from facts(about)
    rows = [(file.path, file.sha256[:SHORT], size(file.bytes)) for file in one.files]
    yield from ("", table(("file", "sha256", "size"), rows, left=2))


def verified_parts(report: VerifyReport) -> Iterator[RenderableType]:
    """Corrupt and repaired files, and a summary."""
    for one in report.rotten:
        outcome = "removed" if one.removed else "it could not be removed"
        yield Paragraph(f"{one.kind} {one.path}: {one.problem}; {outcome}", text("corrupt ", "red"))
    for again in report.repaired or ():
        what = f"{again.kind} {again.name}"
        if again.error is None:
            yield Paragraph(what + (f" from {again.ref}" if again.ref else ""), text("repaired ", "green"))
        else:
            hint = f" (hint: {again.error.hint})" if again.error.hint else ""
            yield Paragraph(f"{what}: {again.error.message}{hint}", text("not repaired: ", "red"))
    blobs = f"{counted(report.blobs, 'blob')} ({size(report.bytes)})"
    counts = [blobs, counted(report.snapshots, "snapshot")]
    result = f"{len(report.rotten)} corrupt" if report.rotten else "no corruption"
    failed = sum(one.error is not None for one in report.repaired or ())
    result += f", {failed} not repaired" if failed else ""
    yield f"{', '.join(counts[:-1])} and {counts[-1]} hashed, {result}"


def removed_parts(report: RemovedReport, *, verbose: bool = False) -> Iterator[RenderableType]:
    """The removed adapters with the freed bytes; with ``verbose`` every reference and blob."""
    known = {ref for one in report.removed for ref in one.references or ()}
    rows = [
        _removed_row(one, verbose=verbose)
        for one in report.removed
        if verbose or not (one.kind == "blob" or one.name in known)
    ]
    if rows:
        title = "would remove" if report.dry_run else "removed"
        lines = [Paragraph(f"{kind} {name} ({taken})".removesuffix(" (-)"), indent=2) for kind, name, taken in rows]
        yield FittedTable((title, "name", "size"), rows, [text(title, "bold"), *lines], left=2)
    kinds = Counter("adapter" if one.kind == "snapshot" else one.kind for one in report.removed)
    counts = ", ".join(counted(kinds[kind], kind) for kind in ("adapter", "blob") if kind in kinds)
    yield f"{'would free' if report.dry_run else 'freed'} {size(report.bytes)}{counts and f': {counts}'}"


def _removed_row(one: Removed, *, verbose: bool) -> tuple[str, str, str]:
    """Kind, name and size; an adapter has its shortest reference, unless all are shown (``verbose``)."""
    name = one.name[:SHORT] if is_digest(one.name) else one.name
    taken = size(one.bytes) if one.bytes else "-"
    if one.kind == "snapshot" and not verbose:
        return "adapter", _shortest(one.references or ()) or name, taken
    return one.kind, name, taken
