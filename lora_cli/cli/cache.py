"""``lora-cli cache``: manage the disk cache."""

import math
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from lora_cli.cli import options
from lora_cli.cli.adapter_selection import read_inputs
from lora_cli.cli.options import ADAPTERS, LIMITS, OUTPUT, option, parse_duration_option, parse_size_option
from lora_cli.cli.output import Format, inform, table_width, width, write, write_result
from lora_cli.errors import Corrupt, NotFound, UsageError
from lora_cli.fetching.cache_repair import repair_cache
from lora_cli.refs.reference import parse
from lora_cli.render.cache_report import cache_report, removed_report, verify_report
from lora_cli.settings import Settings
from lora_cli.store import Store
from lora_cli.store.disk import on_disk
from lora_cli.store.gc import Retention, cache_bytes, collect, remove
from lora_cli.store.inventory import StoredSnapshot, blob_files, inventory
from lora_cli.store.verify import verify
from lora_cli.text import counted, nearest, safe, size

REPAIR = "Repair"
SHORTEST = 8
"""Digits of a digest that may be given for all of it."""

EARLIER = ("adapters", "attached", "history", "leases", "packed")
"""Folders in the cache of an earlier version."""

NAMES = typer.Argument(
    metavar="REF|DIGEST",
    help="References or digests (8 or more digits).",
)
Names = Annotated[list[str], NAMES]
AnyNames = Annotated[list[str] | None, NAMES]


def list_snapshots(
    ctx: typer.Context,
    output_format: options.OutputFormat = "human",
) -> None:
    """List the snapshots, most recently used first."""
    store = Store(ctx.obj.cache_dir)
    _show(store, _inventory(store), output_format)


def show(ctx: typer.Context, names: Names, output_format: options.OutputFormat = "human") -> None:
    """Show snapshots: their references and each file."""
    store = Store(ctx.obj.cache_dir)
    items = _find_snapshots(store, names)
    _tell_earlier_folders(store, ctx.obj)
    _show(store, items, output_format, details=True)


def verify_all(
    ctx: typer.Context,
    names: AnyNames = None,
    repair: bool = option("--repair", "Fetch corrupt and lost adapters again, with the same digest.", False, REPAIR),
    manifest: Path | None = option(
        "--manifest -f FILE",
        "Verify only the adapters of this manifest, at their locked versions.",
        None,
        REPAIR,
    ),
    output_format: options.OutputFormat = "human",
) -> None:
    """Hash all adapters again, or the named ones; exit with 5 if something is corrupt and not repaired.

    Corrupt files are removed. --repair fetches them again, with the same digest, and what an earlier run removed.
    """
    store, settings = Store(ctx.obj.cache_dir), ctx.obj
    store.check_cache()
    if manifest is not None:
        from lora_cli.documents.manifest import read_manifest

        names = names or [entry.name for entry in read_manifest(manifest).adapters]
    from lora_cli.render.terminal_cache import verified_parts

    only = _verified_names(store, names, manifest, lost=repair) if names else None
    found = list(verify(store, only))
    corrupt = [one for one in found if one.problem]
    repaired = list(repair_cache(store, settings, only)) if repair else None
    broken = [one for one in repaired or () if one.error is not None]
    report = verify_report(found, repaired)
    write_result(report, output_format, verified_parts(report), columns=table_width())
    if corrupt and not repair:
        inform("hint: lora-cli cache verify --repair fetches them again", settings)
    if any(one.kind == "blob" for one in corrupt):
        inform("hint: hard links outside the cache are also corrupt: fetch --to or --publish replaces them", settings)
    is_sound = not broken and (not corrupt or (repair and all(one.removed for one in corrupt)))
    raise typer.Exit(0 if is_sound else Corrupt.exit_code)


def _verified_names(store: Store, names: Sequence[str], manifest: Path | None, *, lost: bool) -> set[str]:
    """The names for ``verify``: digests of snapshots (with ``lost`` also of missing ones), sha256 of their blobs.

    With a ``manifest``, ``names`` may be those of its adapters, at their locked version.
    """
    meant: dict[str, str] = {}
    if manifest is not None:
        items = read_inputs(manifest, (), "", "verify").items
        meant = {item.name: item.locked.digest if item.locked else str(item.source) for item in items}
    found = _find_snapshots(store, [meant.get(name, name) for name in names], lost=lost)
    return set().union(*(item.blob_names | {item.digest} for item in found))


def collect_garbage(
    ctx: typer.Context,
    max_bytes: str | None = option(
        "--max-bytes SIZE",
        "Remove the least recently used snapshots until the cache is within this size.",
        None,
        LIMITS,
        envvar=None,
        show_default="the setting cache_budget",
    ),
    unused_for: str | None = option(
        "--unused-for TIME", "Remove snapshots not used for this time, for example 30d.", None, LIMITS
    ),
    dry_run: bool = option("--dry-run", "Only show what would be removed.", False, OUTPUT),
    output_format: options.OutputFormat = "human",
) -> None:
    """Remove unreferenced files, leftovers of dead processes, and the least recently used adapters beyond the limits.

    Adapters in use stay: those with hard links (fetch --to, --publish), and those that are being fetched.
    """
    settings: Settings = ctx.obj
    budget = settings.cache_budget if max_bytes is None else parse_size_option(max_bytes, "--max-bytes")
    if unused_for is not None and re.fullmatch("0*[1-9][0-9]*", unused_for):
        raise UsageError(f"--unused-for {unused_for} has no unit", hint=f"for days: --unused-for {unused_for}d")
    unused_for_s = math.inf if unused_for is None else parse_duration_option(unused_for, "--unused-for", "")
    most = math.inf if budget is None else budget
    store = Store(ctx.obj.cache_dir)
    from lora_cli.render.terminal_cache import removed_parts

    removed = collect(store, Retention(unused_for_s, most), dry_run=dry_run)
    _tell_earlier_folders(store, settings)
    if not removed and unused_for is not None:
        inform("nothing to remove: all snapshots are in use (by hard link) or were used in this time", settings)
    left = cache_bytes(store) - (sum(one.bytes for one in removed) if dry_run else 0)
    if budget is not None and left > budget:
        inform(f"{size(left)} are left, over {size(budget)}: the snapshots are in use or new", settings)
    report = removed_report(removed, dry_run=dry_run)
    write_result(report, output_format, removed_parts(report, verbose=settings.verbose), columns=table_width())


def remove_snapshots(
    ctx: typer.Context,
    names: AnyNames = None,
    everything: bool = option("--all", "Remove all snapshots.", False, ADAPTERS),
    dry_run: bool = option("--dry-run", "Only show what would be removed.", False, OUTPUT),
    yes: bool = option("--yes -y", "With --all: do not ask.", False, ADAPTERS),
    output_format: options.OutputFormat = "human",
) -> None:
    """Remove snapshots, their references, and the blobs that no other snapshot uses."""
    if everything == bool(names):
        raise UsageError("rm takes either adapters or --all", hint="see lora-cli cache ls")
    store = Store(ctx.obj.cache_dir)
    store.check_cache()  # before any other error
    items = _inventory(store) if everything else _find_snapshots(store, names or ())
    if everything and not (dry_run or yes):
        _confirm(f"Remove {counted(len(items), 'adapter')}, {size(cache_bytes(store))}, from {store.root}?")
    from lora_cli.render.terminal_cache import removed_parts

    report = removed_report(remove(store, items, everything=everything, dry_run=dry_run), dry_run=dry_run)
    write_result(report, output_format, removed_parts(report, verbose=ctx.obj.verbose), columns=table_width())


def _confirm(question: str) -> None:
    """Asks for confirmation on the terminal, and exits with 1 unless the answer is yes.

    Raises:
        UsageError: there is no terminal.
    """
    if sys.stdin is None or not sys.stdin.isatty():
        raise UsageError("--all asks for confirmation, but there is no terminal", hint="add --yes, or --dry-run")
    from rich.console import Console
    from rich.prompt import Confirm
    from rich.text import Text

    with suppress(EOFError):
        if Confirm.ask(Text(safe(question)), console=Console(stderr=True), default=False):
            return
    raise typer.Exit(1)


def show_path(
    ctx: typer.Context,
    name: str = typer.Argument(
        "",
        metavar="REF|DIGEST",
        help="A snapshot (default: the cache).",
    ),
) -> None:
    """Print the directory of the cache, or of one snapshot."""
    store = Store(ctx.obj.cache_dir)
    write(f"{_find_one(store, name).directory if name else store.root}\n")


def _tell_earlier_folders(store: Store, settings: Settings) -> None:
    """Names the folders of an earlier version, which stay."""
    if found := ", ".join(name for name in EARLIER if store.root.joinpath(name).is_dir()):
        inform(f"folders of an earlier version in {store.root}, not used any more: {found}; remove them", settings)


def _inventory(store: Store, *, lost: bool = False) -> list[StoredSnapshot]:
    with on_disk("reading", store.root):
        return inventory(store, lost=lost)


def _find_snapshots(store: Store, names: Sequence[str], *, lost: bool = False) -> list[StoredSnapshot]:
    """The snapshots of these names, each once; with ``lost`` also those that are recorded but missing."""
    items = _inventory(store, lost=lost)
    found: dict[str, StoredSnapshot] = {}
    for name in names:
        ref, is_beginning = _reference(name), len(name) >= SHORTEST
        matching = [item for item in items if is_beginning and item.digest.startswith(name)]
        matching = matching or [item for item in items if any(record.ref == ref for record in item.records)]
        if not matching:
            raise NotFound(f"{name} is not in {store.root}", hint=_suggestion(name, items))
        found.update({item.digest: item for item in matching})
    return list(found.values())


def _suggestion(name: str, items: Sequence[StoredSnapshot]) -> str:
    """A did-you-mean hint from the last parts of references."""
    known: dict[str, str] = {}
    for ref in (record.ref for item in items for record in item.records):
        known.setdefault(ref.partition("@")[0].rpartition("/")[2], ref)
    close = nearest(name, known)
    shows = "see lora-cli cache ls"
    return f"did you mean {known[close]}? {shows}" if close is not None else shows


def _find_one(store: Store, name: str) -> StoredSnapshot:
    """The snapshot of a name; of a reference with several file selections the default one, else the last used."""
    items, ref = _find_snapshots(store, [name]), _reference(name)
    if len(items) > 1 and not any(_uses_of(item, ref) for item in items):
        raise UsageError(f"{len(items)} snapshots start with {name}", hint="write more digits")
    return max(items, key=lambda item: max(_uses_of(item, ref), default=(False, 0.0)))


def _uses_of(item: StoredSnapshot, ref: str) -> list[tuple[bool, float]]:
    """For each file selection of ``ref`` in this snapshot: whether it is the default one, and when it was last used."""
    return [(not record.selection, record.used_s) for record in item.records if record.ref == ref]


def _reference(name: str) -> str:
    try:
        return parse(name, is_path=os.path.lexists).in_records
    except UsageError:
        return ""


def _show(
    store: Store,
    items: Sequence[StoredSnapshot],
    output_format: Format,
    details: bool = False,
) -> None:
    """Writes the table of ``ls``, or with ``details`` all of them."""
    blob_bytes = sum(status.st_size for _, status in blob_files(store))
    report = cache_report(store, items, blob_bytes)
    from lora_cli.render.terminal_cache import snapshots_parts

    columns = width() if details else table_width()
    write_result(report, output_format, snapshots_parts(report, columns, details=details), columns=columns)


EXAMPLES = (
    "lora-cli cache ls",
    "lora-cli cache show acme/sql",
    "lora-cli cache verify",
    "lora-cli cache verify acme/sql --repair",
    "lora-cli cache gc --max-bytes 50GiB --unused-for 30d",
    "lora-cli cache rm acme/sql@v1 --dry-run",
    "lora-cli cache rm --all --yes",
    "lora-cli cache path acme/sql",
)

COMMANDS: Mapping[str, Callable[..., None]] = {
    "ls": list_snapshots,
    "show": show,
    "verify": verify_all,
    "gc": collect_garbage,
    "rm": remove_snapshots,
    "path": show_path,
}
