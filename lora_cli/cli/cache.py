"""``lora-cli cache``: manage the disk cache."""

import math
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Annotated

import typer

from lora_cli.cli import options
from lora_cli.cli.options import option
from lora_cli.cli.output import inform, render_parts, write, write_result
from lora_cli.documents.option_values import parse_duration, parse_size
from lora_cli.errors import Corrupt, NotFound, UsageError
from lora_cli.fetching.batch import repair_cache
from lora_cli.refs.reference import parse
from lora_cli.reports.cache import document, human, human_details, human_removed, human_verified
from lora_cli.settings import Settings
from lora_cli.store import Store
from lora_cli.store.gc import Removed, Retention, cache_bytes, collect, remove
from lora_cli.store.inventory import StoredSnapshot, blob_files, inventory, verify
from lora_cli.text import counted, safe, size

SHORTEST = 8
"""Digits of a digest that may be given for all of it."""

limits = partial(option, panel="Limits")
NAMES = typer.Argument(metavar="REF|DIGEST...", help="References or digests (8 or more digits).")
Names = Annotated[list[str], NAMES]
AnyNames = Annotated[list[str] | None, NAMES]


def list_snapshots(ctx: typer.Context, output_format: options.OutputFormat = "human") -> None:
    """List the snapshots, most recently used first."""
    store = Store(ctx.obj.cache_dir)
    found = store, inventory(store), sum(status.st_size for _, status in blob_files(store))
    write_result(document(*found), output_format, human(*found))


def show(ctx: typer.Context, names: Names) -> None:
    """Show snapshots: their references and each file."""
    store = Store(ctx.obj.cache_dir)
    write(render_parts(human_details(_find(store, names))))


def verify_all(
    ctx: typer.Context,
    names: AnyNames = None,
    repair: bool = option("--repair", "Fetch corrupt and lost adapters again, with the same digest."),
) -> None:
    """Hash all adapters again, or the named ones; exit with 5 if something is corrupt and not repaired.

    Corrupt files are removed. --repair fetches them again, with the same digest, and what an earlier run removed.
    """
    store, settings = Store(ctx.obj.cache_dir), ctx.obj
    store.check_cache()
    only = None
    if names:
        found = _find(store, names, lost=repair)
        only = set[str]().union(*(item.blob_names | {item.digest} for item in found))
    hashed = list(verify(store, only))
    corrupt = [one for one in hashed if one.problem]
    repaired = list(repair_cache(store, settings, only)) if repair else None
    write(render_parts(human_verified(hashed, repaired)))
    if corrupt and not repair:
        inform("hint: lora-cli cache verify --repair fetches them again", settings)
    if any(one.kind == "blob" for one in corrupt):
        inform("hint: hard links outside the cache are also corrupt: fetch --to or --publish replaces them", settings)
    is_mended = repair and all(one.removed for one in corrupt) and all(one.error is None for one in repaired or ())
    raise typer.Exit(Corrupt.exit_code if (corrupt or repair) and not is_mended else 0)


def _age(text: str) -> float:
    if re.fullmatch("0*[1-9][0-9]*", text):
        raise ValueError(f"it has no unit: write {text}d for days")
    return parse_duration(text)


def collect_garbage(
    ctx: typer.Context,
    max_bytes: int | None = limits("--max-bytes SIZE", "Keep at most this (default: cache_budget).", parser=parse_size),
    unused_for: float | None = limits("--unused-for TIME", "Remove what was not used for this time.", parser=_age),
    dry_run: options.DryRun = False,
) -> None:
    """Remove unreferenced files, leftovers of dead processes, and the least recently used adapters beyond the limits.

    Adapters in use stay: those with hard links (fetch --to, --publish), and those that are being fetched.
    """
    settings = ctx.obj
    store, budget = Store(settings.cache_dir), settings.cache_budget if max_bytes is None else max_bytes
    kept = Retention(math.inf if unused_for is None else unused_for, math.inf if budget is None else budget)
    removed = collect(store, kept, dry_run=dry_run)
    left = cache_bytes(store) - (sum(one.bytes for one in removed) if dry_run else 0)
    if budget is not None and left > budget:
        inform(f"{size(left)} are left, over {size(budget)}: the snapshots are in use or new", settings)
    _show_removed(removed, settings, dry_run=dry_run)


def remove_snapshots(
    ctx: typer.Context,
    names: AnyNames = None,
    everything: bool = options.adapters("--all", "Remove all snapshots."),
    dry_run: options.DryRun = False,
    yes: bool = options.adapters("--yes -y", "With --all: do not ask."),
) -> None:
    """Remove snapshots, their references, and the blobs that no other snapshot uses."""
    if everything == bool(names):
        raise UsageError("rm takes either adapters or --all", hint="see lora-cli cache ls")
    store = Store(ctx.obj.cache_dir)
    store.check_cache()  # before any other error
    items = inventory(store) if everything else _find(store, names or ())
    if everything and not (dry_run or yes):
        if sys.stdin is None or not sys.stdin.isatty():
            raise UsageError("--all asks for confirmation, but there is no terminal", hint="add --yes, or --dry-run")
        asked = f"Remove {counted(len(items), 'adapter')}, {size(cache_bytes(store))}, from {store.root}?"
        typer.confirm(safe(asked), abort=True, err=True)
    removed = remove(store, items, everything=everything, dry_run=dry_run)
    _show_removed(removed, ctx.obj, dry_run=dry_run)


def show_path(
    ctx: typer.Context,
    name: str = typer.Argument("", metavar="REF|DIGEST", help="A snapshot (default: the cache)."),
) -> None:
    """Print the directory of the cache, or of one snapshot: of several of a reference the last used."""
    store = Store(ctx.obj.cache_dir)
    write(f"{_find(store, [name])[0].directory if name else store.root}\n")


def _find(store: Store, names: Sequence[str], *, lost: bool = False) -> list[StoredSnapshot]:
    """The snapshots of these names, each once; with ``lost`` also those that are recorded but missing."""
    items = inventory(store, lost=lost)
    found: dict[str, StoredSnapshot] = {}
    for name in names:
        ref, is_beginning = "", len(name) >= SHORTEST
        with suppress(UsageError):
            ref = parse(name, is_path=os.path.lexists).in_records
        matching = [item for item in items if is_beginning and item.digest.startswith(name)]
        matching = matching or [item for item in items if any(record.ref == ref for record in item.records)]
        if not matching:
            raise NotFound(f"{name} is not in {store.root}", hint="see lora-cli cache ls")
        found.update({item.digest: item for item in matching})
    return list(found.values())


def _show_removed(removed: Sequence[Removed], settings: Settings, *, dry_run: bool) -> None:
    parts = human_removed(removed, dry_run=dry_run, verbose=settings.verbose)
    write(render_parts(parts))


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
