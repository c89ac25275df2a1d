"""``lora-cli fetch``: references in, directories out: in the cache, its views by name, ``--to`` or ``--publish``."""

import os
import re
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import typer

from lora_cli.cli import options
from lora_cli.cli.adapter_selection import LockFlags, Order, check_flags, order, reaching
from lora_cli.cli.options import ADAPTERS, LIMITS, LOCKING, NETWORK, OUTPUT, option, setting
from lora_cli.cli.output import Format, about, drawn, note, table_width, termination_log, to_stderr, write, write_result
from lora_cli.cli.progress import shown_progress
from lora_cli.core.adapter_files import BASE_CONFIG_CAP
from lora_cli.core.adapter_request import NAME
from lora_cli.core.lock import THE_BASE
from lora_cli.core.shard import in_shard
from lora_cli.core.text import names, safe
from lora_cli.documents.policy_checks import format_of
from lora_cli.errors import Corrupt, LoraCliError, MachineError, Refused, UsageError
from lora_cli.fetching.batch import Outcome, fetch_all
from lora_cli.fetching.file_selection import Selection
from lora_cli.render.fetch_report import fetch_report, fetched_adapter, plan_report
from lora_cli.render.terminal_fetch import fetched_parts, render_line, render_not_pruned
from lora_cli.settings import Settings, with_flags
from lora_cli.store import Store
from lora_cli.store.blobs import LostBlob
from lora_cli.store.export import export_snapshot, remove_views, write_view
from lora_cli.store.published import Pruning, ServedBase, prune_published, publish_adapter, to_prune

PIN = "Version"
BASE_TIMEOUT_S = 10.0
"""How long a base's config is waited for: adapters are there by then."""
files = partial(option, default=None, panel=ADAPTERS)
destination = partial(option, default=None, panel="Output")

EXAMPLES = (
    "lora-cli fetch acme/sql@v2 s3://acme-adapters/chat",
    "lora-cli fetch -f set.yaml --locked",
    "lora-cli fetch acme/sql --to ./adapters/sql",
)


@termination_log()
def command(
    ctx: typer.Context,
    refs: options.Refs = None,
    manifest: options.Manifest = None,
    revision: str | None = option("--revision REV", "Branch, tag or commit of each REF.", None, PIN),
    subfolder: str = option("--subfolder PATH", "Folder of the adapter in each REF.", "", PIN),
    checkpoint: options.Checkpoint = "",
    lock: Path | None = option("--lock FILE", "Lock file (default: next to the manifest).", None, LOCKING),
    locked: bool = option(
        "--locked", "Fetch exactly the locked versions or fail; never write the lock.", False, LOCKING
    ),
    check: bool = option("--check", "Show what changed since the lock; fetch nothing.", False, LOCKING),
    dry_run: bool = option("--dry-run", "Show what would be downloaded; write nothing.", False, OUTPUT),
    upgrade: bool = option(
        "--upgrade", "Lock the newest versions of all adapters, or of the NAMEs given.", False, LOCKING
    ),
    to: str | None = destination(
        "--to DIRECTORY",
        "Write the files here, one folder each if several. Weights are hard links into the cache: do not edit them.",
    ),
    publish: str | None = destination(
        "--publish DIRECTORY", "Write each adapter to DIRECTORY/NAME, for vLLM's filesystem resolver."
    ),
    prune: bool = destination(
        "--prune", "With --publish: remove published adapters that are not in the manifest.", default=False
    ),
    base: str = destination(
        "--base NAME", "With --publish: the base model's name as the engine serves it.", default=""
    ),
    fix_base: str = destination(
        "--fix-base NAME", "With --publish: write this base name into each config.", default=""
    ),
    link: bool = destination("--link", "Hard-link the weights of local folders into the cache.", default=False),
    include: list[str] | None = files("--include GLOB", "Also fetch matching files; may be repeated."),
    exclude: list[str] | None = files("--exclude GLOB", "Do not fetch matching files; may be repeated."),
    allow_pickle: options.AllowPickle = False,
    policy: options.PolicyFile = None,
    max_bytes: str | None = setting("max_bytes", None, LIMITS),
    max_total_bytes: str | None = setting("max_total_bytes", None, LIMITS),
    max_files: str | None = setting("max_files", None, LIMITS),
    max_header_bytes: str | None = setting("max_header_bytes", None, LIMITS),
    keep_free: str | None = setting("keep_free", None, LIMITS),
    cache_budget: str | None = setting("cache_budget", None, LIMITS),
    shard: options.Shard = None,
    ray: options.Ray = None,
    jobs: str | None = setting("jobs", None, NETWORK),
    timeout: str | None = setting("timeout", None, NETWORK),
    adapter_timeout: str | None = setting("adapter_timeout", None, LIMITS),
    retries: str | None = setting("retries", None, NETWORK),
    output_format: options.OutputFormat = "human",
) -> None:
    """Download adapters into the cache, pinned and verified.

    In a pipe, prints one absolute directory per adapter. With -f, writes a lock next to the manifest.
    """
    # The options that override settings have their names; a switch that is not given overrides nothing.
    settings = with_flags(ctx.obj, {name: value for name, value in ctx.params.items() if value is not False})
    refs = refs or []
    flags = LockFlags(lock, locked=locked, check=check, upgrade=upgrade, some=bool(refs))
    selection = Selection(tuple(include or ()), tuple(exclude or ()), allow_pickle)
    check_flags(flags, manifest, chosen=selection.chosen)
    if upgrade and settings.offline and not settings.quiet:
        to_stderr("warning: offline mode is on: --upgrade takes the newest versions that are cached")
    asked = order(refs, manifest, selection, revision=revision, subfolder=subfolder, checkpoint=checkpoint)
    settings = reaching(settings, asked.manifest, policy)
    file = None
    if manifest is not None:
        from lora_cli.cli import lockfile

        asked, file = lockfile.pinned(asked, manifest, flags)
    asked = replace(asked, adapters=tuple(in_shard(asked.adapters, shard, asked.key)))
    if check and file is not None:
        raise typer.Exit(lockfile.report_drift(asked, file, settings, output_format, some=flags.some))
    if prune and (publish is None or asked.manifest is None):
        hint = f"-f {manifest or 'MANIFEST'} --publish {publish or 'DIRECTORY'} --prune"
        raise UsageError("--prune needs a manifest and --publish", hint=hint)
    store = Store(settings.cache_dir)
    place = handing(asked, store, to, publish, base, fix_base)
    if dry_run:
        raise typer.Exit(_plan(asked, publish if prune else None, store, settings, output_format))
    if (said := unchecked(asked, place)) and not settings.quiet:
        to_stderr(said)
    done = _bring(asked, place, settings, output_format, link=link, ray=ray)
    base_config = _base_config(asked, store, settings)
    everything = [*done, base_config] if base_config is not None else done
    failed = [about(one.request.name, one.error.message) for one in everything if one.error is not None]
    pruning = (
        _prune(asked, publish, store, settings, failed=bool(failed)) if prune and publish is not None else Pruning()
    )
    changes = None
    if file is not None and not flags.locked:
        changes = lockfile.write_lock(asked, file, flags, everything, store, settings)
        before = changes.before.by_name
        remove_views(store, {name: before[name].digest for name in changes.removed})
    if output_format == "json":
        from lora_cli.render.json import encoded

        adapters, where = list(map(fetched_adapter, done)), None if file is None else file.path
        about_base = None if base_config is None else fetched_adapter(base_config)
        write(encoded(fetch_report(adapters, about_base, where, changes, pruning)))
    if failed:
        note("\n".join(failed))
    raise typer.Exit(max((outcome.exit_code for outcome in everything), default=0))


def _base_config(asked: Order, store: Store, settings: Settings) -> Outcome | None:
    """The config of the manifest's base, fetched into the cache so that the lock has it; None if it cannot be had.

    That is a warning: adapters are served without it. Other bytes than are locked are an error.
    """
    if asked.base is None:
        return None
    within_s = min(settings.adapter_timeout_s or BASE_TIMEOUT_S, BASE_TIMEOUT_S)
    own = replace(settings, policies=(), max_bytes=BASE_CONFIG_CAP, max_total_bytes=None, adapter_timeout_s=within_s)
    outcome = next(fetch_all([asked.base], store, own))
    if outcome.error is None:
        return outcome
    if isinstance(outcome.error, Corrupt | Refused):
        to_stderr(render_line(fetched_adapter(outcome)))
        return outcome
    if not settings.quiet and (asked.base.demand.locked is not None or not settings.offline):
        to_stderr(f"warning: {THE_BASE} is not cached: {safe(outcome.error.message)}")
    return None


def _plan(asked: Order, pruned: str | None, store: Store, settings: Settings, output_format: Format) -> int:
    """Shows what would be downloaded, and what would leave the folder to be ``pruned``; gives the exit code."""
    from lora_cli.fetching.dry_run import plan_all
    from lora_cli.render.terminal_fetch import plan_parts

    planned = [*plan_all(asked.adapters, store, settings)]
    pruning = Pruning()
    if pruned is not None and any(one.error is not None for one in planned):
        to_stderr("nothing would be pruned: not all adapters can be fetched and published")
    elif pruned is not None:
        pruning = to_prune(Path(pruned).expanduser(), _staying(asked))
        _tell_pruned(pruned, pruning, settings, "would prune")
    report = plan_report(planned, pruning)
    write_result(report, output_format, plan_parts(report), columns=table_width())
    return report.exit_code


def _staying(asked: Order) -> set[str]:
    return {entry.name for entry in asked.manifest.adapters} if asked.manifest is not None else set()


def _tell_pruned(folder: str, pruning: Pruning, settings: Settings, done: str) -> None:
    if settings.quiet:
        return
    for name in pruning.removed:
        to_stderr(f"{done} {folder}/{name}: it is not in the manifest")
    for one in pruning.kept:
        to_stderr(render_not_pruned(folder, one))


def _prune(asked: Order, folder: str, store: Store, settings: Settings, *, failed: bool) -> Pruning:
    """Removes what was published in ``folder`` and is not in the manifest, and its views; gives what left and stays.

    Where something failed all stays: it may be what is served instead.
    """
    if failed:
        to_stderr("nothing is pruned: not all adapters were fetched and published")
        return Pruning()
    pruning = prune_published(Path(folder).expanduser(), _staying(asked))
    remove_views(store, pruning.removed)
    _tell_pruned(folder, pruning, settings, "pruned")
    return pruning


@dataclass(frozen=True, slots=True)
class Handing:
    """Where adapters can be used: in the store, or in the folder of ``targets`` for the adapter of that number.

    With ``views`` the store also keeps each one under its name. With ``served`` the targets are published for an
    engine's resolver.
    """

    store: Store
    targets: Sequence[Path] | None
    views: bool = False
    served: ServedBase | None = None

    def handed(self, outcome: Outcome, number: int) -> Outcome:
        """The outcome with its directory; if it cannot be written there, it has failed."""
        if outcome.fetched is None:
            return outcome
        snapshot, target = outcome.fetched.snapshot, self.targets[number] if self.targets else None
        try:
            if self.views:
                write_view(self.store, outcome.request.name, snapshot)
            if target is None:
                return replace(outcome, directory=snapshot.directory.absolute())
            if self.served is None:
                return replace(outcome, directory=export_snapshot(self.store, snapshot, target))
            published = publish_adapter(self.store, snapshot, target, self.served)
            return replace(outcome, directory=target, published=published)
        except LostBlob:
            error: LoraCliError = MachineError(
                f"{self.store.root} is being cleaned up at the same time", hint="try again"
            )
        except LoraCliError as refused:
            error = refused
        return replace(outcome, error=error)


def handing(
    order: Order, store: Store, to: str | None, publish: str | None, base: str = "", fix_base: str = ""
) -> Handing:
    """Where the adapters of ``order`` go: the options of ``fetch`` by their names.

    Raises:
        UsageError: two places at once, none, or a name that cannot be the folder of one adapter.
    """
    if to is not None and publish is not None:
        raise UsageError(
            "--to and --publish cannot be used together", hint="fetch twice: the second fetch uses the cache"
        )
    if fix_base and publish is None:
        raise UsageError("--fix-base needs --publish", hint="--publish DIRECTORY")
    if publish is not None:
        published = folders("--publish", publish, order, by_name=True)
        served = ServedBase(fix_base, fix=True) if fix_base else ServedBase(base or _repository(order))
        return Handing(store, published, order.manifest is not None, served)
    targets = None if to is None else folders("--to", to, order, by_name=not order.alone)
    return Handing(store, targets, order.manifest is not None)


def _repository(order: Order) -> str | None:
    """The base's name as an engine serves it: the manifest's repository. A folder may have any name."""
    base = order.manifest.base if order.manifest is not None else None
    return base.location if base is not None and base.scheme == "hf" and not base.subfolder else None


def unchecked(order: Order, place: Handing) -> str:
    """The warning if the engine's name for the base is not given; empty if that is known."""
    if place.served is None or place.served.name is not None:
        return ""
    base = order.manifest.base if order.manifest is not None else None
    is_path = base is not None and base.scheme == "file"
    why = "no base is set" if base is None else f"the manifest's base is {'a path' if is_path else base}"
    return f"the base was not checked for publishing: {why}; set --base NAME to the engine's --model"


def folders(option: str, folder: str, order: Order, *, by_name: bool) -> list[Path]:
    """The folder of each adapter: ``folder`` itself, or folders in it ``by_name``.

    Raises:
        UsageError: it is empty, or a name cannot be the folder of one adapter.
    """
    if not folder:
        raise UsageError(f"{option} has no folder", hint=f"{option} DIRECTORY")
    root = Path(os.path.abspath(Path(folder).expanduser()))  # noqa: PTH100 - links stay links
    if not by_name:
        return [root] * len(order.adapters)
    names = [item.name for item in order.adapters]
    for name in (one.name for one in order.adapters if not isinstance(one.parsed, UsageError)):
        if not re.fullmatch(NAME, name, re.ASCII) or names.count(name) > 1:
            hint = "give each a name in a manifest, with -f"
            raise UsageError(f"{name!r} cannot be the folder of one adapter in {root}", hint=hint)
    return [root / name for name in names]


def _doubts(outcome: Outcome) -> Iterator[str]:
    """What may be wrong with an adapter that was published, a sentence each."""
    name = safe(outcome.request.name)
    if outcome.published is None or outcome.fetched is None:
        return
    if outcome.published.replaced:
        yield f"{name} replaces other content: an engine may mix both; publish under a new name"
    if pickled := [path for path in outcome.fetched.snapshot.files if format_of(path) == "pickle"]:
        yield (
            f"{name} is published with pickled weights ({safe(names(pickled))}), which run code in what unpickles "
            "them; fetch does not check them: lora-cli validate does"
        )


def _bring(
    asked: Order, place: Handing, settings: Settings, form: Format, *, link: bool, ray: str | None
) -> list[Outcome]:
    """Fetches all, here or on a Ray cluster, and hands each out.

    A terminal shows errors as soon as they are known, and a table at the end. Elsewhere, and with ``--quiet``, each
    directory is written as soon as it is known.
    """
    done: list[Outcome] = []
    tabular = form == "human" and sys.stdout.isatty() and not settings.quiet
    began_s = time.perf_counter()
    try:
        with shown_progress(settings, len(asked.adapters)) as progress:
            if ray is not None:
                from lora_cli.fleet.fetching import bring_fleet

                outcomes = bring_fleet(ray, asked.adapters, settings, link=link)
            else:
                outcomes = fetch_all(asked.adapters, place.store, settings, progress=progress, link=link)
            for number, fetched in enumerate(outcomes):
                done.append(outcome := place.handed(fetched, number))
                progress.adapter_ended(outcome.request.name)
                # Of what a table will have only the error is written meanwhile.
                if outcome.error is not None or not (settings.quiet or tabular):
                    to_stderr(render_line(fetched_adapter(outcome)))
                for warning in () if settings.quiet else _doubts(outcome):
                    to_stderr(f"warning: {warning}")
                if form == "human" and outcome.directory is not None and not tabular:
                    write(f"{outcome.directory}\n")
    except KeyboardInterrupt:
        if not settings.quiet:
            to_stderr("interrupted: downloaded data is kept; run the same command to continue")
        raise
    finally:
        if tabular and done:
            write(drawn(fetched_parts(list(map(fetched_adapter, done)), time.perf_counter() - began_s)))
    return done
