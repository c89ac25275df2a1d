"""``lora-cli fetch``: references in, directories out."""

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lora_cli.cli import options
from lora_cli.cli.handing import Handing, handing, unchecked
from lora_cli.cli.lineup import reaching
from lora_cli.cli.options import ADAPTERS, DESTINATION, LOCKING, option
from lora_cli.cli.output import Format, drawn, to_stderr, write
from lora_cli.cli.progress import shown_progress
from lora_cli.cli.wanted import LockFlags, Order, check_flags, in_shard, order
from lora_cli.fetching import Selection
from lora_cli.fetching.many import Handed, bring_all
from lora_cli.settings import Settings, with_flags
from lora_cli.store import Store

if TYPE_CHECKING:
    from lora_cli.cli.locking import LockFile
    from lora_cli.core.lock import Changes


PIN = "Version"

Revision = Annotated[
    str | None, option("--revision", panel=PIN, metavar="REV", help="The branch, tag or commit of each REF.")
]
Subfolder = Annotated[str, option("--subfolder", panel=PIN, metavar="PATH", help="The adapter's folder in each REF.")]
LockPath = Annotated[
    Path | None,
    option("--lock", panel=LOCKING, metavar="FILE", help="The lock file; without it beside the manifest."),
]
Locked = Annotated[
    bool, option("--locked", panel=LOCKING, help="Fetch exactly what is locked, or fail; never write the lock.")
]
Check = Annotated[bool, option("--check", panel=LOCKING, help="Show what changed since the lock; fetch nothing.")]
Upgrade = Annotated[
    bool,
    option("--upgrade", panel=LOCKING, help="Lock the newest versions: of all adapters, or of those named as REFs."),
]
To = Annotated[
    str | None,
    option(
        "--to",
        panel=DESTINATION,
        metavar="DIRECTORY",
        help="Put the files here, several adapters by name. Weights are hard links into the cache: do not edit them.",
    ),
]
Publish = Annotated[
    str | None,
    option(
        "--publish",
        panel=DESTINATION,
        metavar="DIRECTORY",
        help="Put each adapter in DIRECTORY/NAME, for vLLM's filesystem resolver.",
    ),
]
ServedBase = Annotated[
    str,
    option(
        "--base",
        panel=DESTINATION,
        metavar="NAME",
        help="With --publish: the base model's name as the engine serves it.",
    ),
]
FixBase = Annotated[
    str,
    option(
        "--fix-base", panel=DESTINATION, metavar="NAME", help="With --publish: write this base name into each config."
    ),
]
Link = Annotated[
    bool, option("--link", panel=DESTINATION, help="Hard-link the weights of local folders into the cache.")
]
Include = Annotated[
    list[str] | None,
    option("--include", panel=ADAPTERS, metavar="GLOB", help="Also fetch files that match; may be repeated."),
]
Exclude = Annotated[
    list[str] | None,
    option("--exclude", panel=ADAPTERS, metavar="GLOB", help="Do not fetch files that match; may be repeated."),
]
EXAMPLES = (
    "lora-cli fetch acme/sql@v2 s3://acme-adapters/chat",
    "lora-cli fetch -f set.yaml --locked",
    "lora-cli fetch acme/sql --to ./adapters/sql",
)


def command(
    ctx: typer.Context,
    refs: options.Refs = None,
    manifest: options.Manifest = None,
    revision: Revision = None,
    subfolder: Subfolder = "",
    checkpoint: options.Checkpoint = "",
    lock: LockPath = None,
    locked: Locked = False,
    check: Check = False,
    upgrade: Upgrade = False,
    to: To = None,
    publish: Publish = None,
    base: ServedBase = "",
    fix_base: FixBase = "",
    link: Link = False,
    include: Include = None,
    exclude: Exclude = None,
    allow_pickle: options.AllowPickle = False,
    policy: options.PolicyFile = None,
    max_bytes: options.MaxBytes = None,
    max_total_bytes: options.MaxTotalBytes = None,
    max_files: options.MaxFiles = None,
    max_header_bytes: options.MaxHeaderBytes = None,
    keep_free: options.KeepFree = None,
    cache_budget: options.CacheBudget = None,
    shard: options.Shard = None,
    ray: options.Ray = None,
    jobs: options.Jobs = None,
    timeout: options.Timeout = None,
    adapter_timeout: options.AdapterTimeout = None,
    retries: options.Retries = None,
    output_format: options.OutputFormat = Format.HUMAN,
) -> None:
    """Download adapters into the cache, pinned and verified.

    A pipe gets one absolute directory per adapter. With -f a lock is written beside the manifest.
    """
    # The options that override settings have their names; a switch that is not given overrides nothing.
    settings = with_flags(ctx.obj, {name: value for name, value in ctx.params.items() if value is not False})
    names, refs = (tuple(refs or ()), []) if upgrade and manifest is not None else ((), refs or [])
    flags = LockFlags(lock, locked=locked, check=check, upgrade=upgrade, names=names)
    selection = Selection(tuple(include or ()), tuple(exclude or ()), allow_pickle)
    check_flags(flags, manifest, chosen=selection.chosen)
    asked = order(refs, manifest, revision=revision, subfolder=subfolder, checkpoint=checkpoint)
    settings = reaching(settings, asked.manifest, policy)
    asked, file = _pinned(asked, manifest, flags)
    asked = in_shard(asked, shard)
    if check and file is not None:
        from lora_cli.cli.drift import report_drift

        raise typer.Exit(report_drift(asked, file, settings, selection, output_format))
    store = Store(settings.cache_dir)
    place = handing(asked, store, to, publish, base, fix_base)
    if (note := unchecked(asked, place)) and not settings.quiet:
        to_stderr(note)
    done = _bring(asked, place, settings, selection, output_format, link=link, ray=ray)
    changes = _locked(asked, file, flags, done, store, settings)
    if output_format is Format.JSON:
        from lora_cli.render.json_store import render_outcomes

        write(render_outcomes(done, None if file is None else file.path, changes))
    raise typer.Exit(max((handed.outcome.exit_code for handed in done), default=0))


def _pinned(asked: Order, manifest: Path | None, flags: LockFlags) -> "tuple[Order, LockFile | None]":
    """What is asked for at what is locked, and the lock, if there is a place for one."""
    if manifest is None:
        return asked, None
    from lora_cli.cli.locking import check_writable, open_lock, pinned

    file = open_lock(manifest, flags)
    if file is not None:
        asked = pinned(asked, file, flags)
        if not flags.check:
            check_writable(asked, file, flags)
    return asked, file


def _locked(
    asked: Order,
    file: "LockFile | None",
    flags: LockFlags,
    done: Sequence[Handed],
    store: Store,
    settings: Settings,
) -> "Changes | None":
    """Brings the lock up to date, and says how."""
    if file is None or flags.locked:
        return None
    from lora_cli.cli.locking import write_lock
    from lora_cli.render.terminal_fetch import render_changes

    changes = write_lock(asked, file, flags, [handed.outcome for handed in done], store, settings)
    if changes and not settings.quiet:
        to_stderr(render_changes(file.path, changes))
    return changes


def _bring(
    asked: Order,
    place: Handing,
    settings: Settings,
    selection: Selection,
    output_format: Format,
    *,
    link: bool,
    ray: str | None,
) -> list[Handed]:
    """Fetches all, here or on a Ray cluster, and hands each out.

    A terminal shows errors as soon as they are known, and a table at the end. Elsewhere, and with ``--quiet``, each
    directory is written as soon as it is known.
    """
    done: list[Handed] = []
    tabular = output_format is Format.HUMAN and sys.stdout.isatty() and not settings.quiet
    began_s = time.perf_counter()
    try:
        with shown_progress(settings, len(asked.adapters)) as progress:
            if ray is not None:
                from lora_cli.fleet.fetching import bring_fleet

                outcomes = bring_fleet(ray, asked.adapters, settings, selection, link=link)
            else:
                outcomes = bring_all(
                    asked.adapters, place.store, settings, progress=progress, selection=selection, link=link
                )
            for handed in place.hand_out_each(outcomes):
                done.append(handed)
                progress.through(handed.outcome.wanted.name)
                _write(handed, settings, output_format, tabular=tabular)
    finally:
        if tabular and done:
            from lora_cli.render.terminal_fetch import fetched_parts

            write(drawn(fetched_parts(done, time.perf_counter() - began_s)))
    return done


def _write(handed: Handed, settings: Settings, output_format: Format, *, tabular: bool) -> None:
    """A directory on standard output, and a line on standard error; of what a table will have only the error."""
    from lora_cli.render.terminal_fetch import render_line

    if handed.outcome.error is not None or not (settings.quiet or tabular):
        to_stderr(render_line(handed))
    if output_format is Format.HUMAN and handed.directory is not None and not tabular:
        write(f"{handed.directory}\n")
