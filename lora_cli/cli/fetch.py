"""``lora-cli fetch``: downloads adapters into the cache, ``--to`` or ``--publish``."""

import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from lora_cli.cli import options
from lora_cli.cli.adapter_selection import (
    FetchRequests,
    Inputs,
    apply_policies,
    base_model,
    deployment_of,
    fetch_requests,
    named_engines,
)
from lora_cli.cli.options import ADAPTERS, LOCKING, OUTPUT, option
from lora_cli.cli.output import (
    Format,
    inform,
    is_interactive,
    log_failures,
    render_parts,
    table_width,
    termination_log,
    to_stderr,
    write,
    write_result,
)
from lora_cli.documents.policy_checks import format_of
from lora_cli.errors import UsageError
from lora_cli.fetching.batch import SILENT, Outcome, Progress, fetch_all
from lora_cli.fetching.preview import CheckedAdapter
from lora_cli.judging.publishing import Destination, folders
from lora_cli.refs.adapter_files import BASE_CONFIG_CAP
from lora_cli.refs.lock import THE_BASE, ref_at
from lora_cli.refs.request import LockFlags, Selection
from lora_cli.render.fetch_report import (
    CheckReport,
    FetchReport,
    LockChanges,
    fetched_adapter,
    lock_changes,
    render_line,
)
from lora_cli.render.json import to_json
from lora_cli.render.terminal_fetch import (
    drift_parts,
    fetched_parts,
    render_changes,
    render_drift,
    render_drift_error,
    render_not_pruned,
)
from lora_cli.settings import Settings
from lora_cli.store import Store
from lora_cli.store.materialize import NotPruned, prune, remove_leftovers
from lora_cli.text import names, safe

if TYPE_CHECKING:
    from lora_cli.fetching.lock_update import LockFile
    from lora_cli.judging.judge import Terms

BASE_TIMEOUT_S = 10.0
"""Timeout of the base's config: the adapters are already fetched."""
files = partial(option, default=None, panel=ADAPTERS)
into = partial(option, default=None, panel="Output")

EXAMPLES = (
    "lora-cli fetch acme/sql@v2 s3://acme-adapters/chat",
    "lora-cli fetch -f set.yaml --locked",
    "lora-cli fetch acme/sql --to ./adapters/sql",
)


@dataclass(frozen=True, slots=True)
class FetchOptions:
    """The parsed options."""

    ctx: typer.Context
    refs: options.Refs = None
    manifest: options.Manifest = None
    locked: bool = option(
        "--locked", "Fetch exactly the locked versions or fail; never write the lock.", False, LOCKING
    )
    check: bool = option("--check", "Show what changed since the lock; fetch nothing.", False, LOCKING)
    dry_run: bool = option("--dry-run", "Show what would be downloaded; write nothing.", False, OUTPUT)
    upgrade: bool = option(
        "--upgrade", "Lock the newest versions of all adapters, or of the NAMEs given.", False, LOCKING
    )
    to: str | None = into(
        "--to DIRECTORY",
        "Write the files here, one folder each if several. Weights are hard links into the cache: do not edit them.",
    )
    publish: str | None = into(
        "--publish DIRECTORY", "Write each adapter that passes to DIRECTORY/NAME, for vLLM's filesystem resolver."
    )
    no_validate: bool = into("--no-validate", "With --publish: publish without validating.", default=False)
    keep_going: bool = into(
        "--keep-going", "With --publish: exit 0 if any adapter is published, although others failed.", default=False
    )
    prune: bool = into(
        "--prune", "With --publish: remove published adapters that are not in the manifest.", default=False
    )
    base_name: str = into("--base-name NAME", "With --publish: the base model's name in the engine.", default="")
    include: list[str] | None = files("--include GLOB", "Also fetch matching files; may be repeated.")
    allow_pickle: options.AllowPickle = False
    policy: options.PolicyFile = None
    shard: options.Shard = None
    ray: options.Ray = None
    output_format: options.OutputFormat = "human"


@wraps(FetchOptions, assigned=(), updated=())  # typer reads the options off its fields
@termination_log()
def command(**given: Any) -> None:
    """Download adapters into the cache, pinned and verified.

    In a pipe, prints one absolute directory per adapter. With -f, writes a lock next to the manifest.
    """
    chosen, refs = FetchOptions(**given), given["refs"] or []
    settings: Settings = chosen.ctx.obj
    flags = _lock_flags(chosen)
    if chosen.upgrade and settings.offline:
        inform("warning: offline mode is on: --upgrade takes the newest versions that are cached", settings)
    whole = fetch_requests(refs, chosen.manifest, Selection(tuple(chosen.include or ()), chosen.allow_pickle))
    settings, lock_file = apply_policies(settings, whole.manifest, chosen.policy), None
    if chosen.manifest is not None and whole.manifest is not None:
        lock_file, whole = _at_lock(chosen.manifest, whole, flags)
    requests = replace(whole, adapters=options.in_shard(whole.adapters, chosen.shard, whole.key))
    if lock_file is not None:
        if moved := lock_file.moved(requests.every, settings):
            inform(moved, settings)
        if chosen.check:
            raise typer.Exit(_report_drift(requests, lock_file, settings, chosen.output_format))
    store = Store(settings.cache_dir)
    destination = destination_of(requests, store, chosen, settings)
    if chosen.dry_run:
        raise typer.Exit(_dry_run(requests, chosen, store, settings))
    if warning := unchecked_base_warning(requests, destination):
        inform(warning, settings)
    if destination.published and not chosen.no_validate:
        destination = replace(destination, terms=_terms(whole, lock_file, chosen, settings))
    done = _fetch_all(requests, destination, chosen, settings)
    base_config = _base_config(requests, store, settings)
    failed = [(one.request.name, one.error.message, "") for one in done if one.error is not None]
    pruned, not_pruned = _prune(requests, chosen, settings, failed=bool(failed))
    changes = None if lock_file is None else LockChanges(str(lock_file.path))
    if lock_file is not None and not flags.locked:
        warn = partial(_warn, settings)
        before, after = lock_file.update(done, base_config, store, settings, warn)
        changes = lock_changes(lock_file.path, before, after)
        if (changes.added or changes.changed or changes.removed) and not settings.quiet:
            to_stderr(render_changes(changes, before, after))
    goes_on = chosen.keep_going and any(one.published is not None for one in done)
    code = 0 if goes_on else max((one.exit_code for one in done), default=0)
    if chosen.output_format == "json":
        adapters = list(map(fetched_adapter, done))
        report = FetchReport(adapters=adapters, lock=changes, pruned=pruned, not_pruned=not_pruned, exit_code=code)
        write(to_json(report))
    log_failures(failed)
    raise typer.Exit(code)


def _lock_flags(chosen: FetchOptions) -> LockFlags:
    """The options for a manifest's lock. Raises ``UsageError`` if they are not compatible."""
    flags = LockFlags(chosen.locked, chosen.check, chosen.upgrade, some=bool(chosen.refs))
    if chosen.manifest is None and flags.given:
        raise UsageError(f"--{flags.given[0]} is for an adapter set", hint="set it with -f")
    if len(flags.given) > 1:
        raise UsageError("--{} and --{} cannot be used together".format(*flags.given), hint="remove one of them")
    if chosen.locked and chosen.include:
        raise UsageError("--locked uses the files of the lock", hint="remove --include")
    return flags


def _at_lock(manifest: Path, requests: FetchRequests, flags: LockFlags) -> "tuple[LockFile | None, FetchRequests]":
    """The lock of the manifest, if it can have one, and the requests with each adapter at its locked version.

    Raises:
        UsageError, NotFound: see ``open_lock``.
        Refused: ``--locked``, and lock and manifest disagree.
        MachineError: the lock will have to be written, and its folder is not writable.
    """
    from lora_cli.fetching.lock_update import open_lock

    assert requests.manifest is not None
    file = open_lock(manifest, requests.manifest, flags)
    if file is None:
        return None, replace(requests, base=None)
    if flags.locked:
        file.check_agrees()
    adapters, base = tuple(file.apply(requests.adapters)), file.apply_base(requests.base)
    requests = replace(requests, adapters=adapters, base=base)
    if not (flags.locked or flags.check):
        file.check_writable(requests.every)
    return file, requests


def _report_drift(requests: FetchRequests, file: "LockFile", settings: Settings, output_format: Format) -> int:
    """Writes what differs from the lock: a line for each adapter in a pipe, a table on a terminal.

    Returns the exit code: 1 for drift, else that of the error of an origin that could not be checked.
    """
    done: list[CheckedAdapter] = []
    in_a_pipe = output_format == "human" and not sys.stdout.isatty()
    for one in file.drifts(requests.adapters, requests.base, settings):
        done.append(one)
        if output_format == "human" and one.error is not None:
            to_stderr(render_drift_error(one))
        elif in_a_pipe and (one.drift or not settings.quiet):
            write(render_drift(one))
    left_over = [] if file.flags.some else file.left_over
    code = max([one.exit_code for one in done] + [int(bool(left_over))])
    report = CheckReport(lock=str(file.path), adapters=done, left_over=left_over, exit_code=code)
    if output_format == "json":
        write(to_json(report))
    elif in_a_pipe:
        write("".join(f"{name}: is locked but not in the manifest\n" for name in left_over))
    elif code or not settings.quiet:
        write(render_parts(drift_parts(report)))
    return code


def _base_config(requests: FetchRequests, store: Store, settings: Settings) -> Outcome | None:
    """Fetches the config of the manifest's base for the lock; None, with a warning, if it cannot be fetched."""
    if requests.base is None:
        return None
    within_s = min(settings.adapter_timeout_s, BASE_TIMEOUT_S)
    own = replace(settings, policies=(), max_bytes=BASE_CONFIG_CAP, adapter_timeout_s=within_s)
    outcome = next(fetch_all([requests.base], store, own))
    if outcome.error is None:
        return outcome
    _warn(settings, f"{THE_BASE} is not locked: {outcome.error.message}")
    return None


def _warn(settings: Settings, message: str) -> None:
    inform(f"warning: {message}", settings)


def _dry_run(requests: FetchRequests, chosen: FetchOptions, store: Store, settings: Settings) -> int:
    """Shows the planned downloads, and what would be pruned; returns the exit code."""
    from lora_cli.fetching.preview import plan_all
    from lora_cli.render.fetch_report import PlanReport
    from lora_cli.render.terminal_fetch import plan_parts

    planned = list(plan_all(requests.adapters, store, settings))
    pruned, not_pruned = _prune(requests, chosen, settings, failed=any(one.error is not None for one in planned))
    code = max((one.exit_code for one in planned), default=0)
    report = PlanReport(adapters=planned, pruned=pruned, not_pruned=not_pruned, exit_code=code)
    write_result(report, chosen.output_format, plan_parts(report), columns=table_width())
    return code


def _prune(
    requests: FetchRequests, chosen: FetchOptions, settings: Settings, *, failed: bool
) -> tuple[list[str], list[NotPruned]]:
    """Removes published adapters that are not in the manifest; with --dry-run only reports them.

    Nothing is removed if an adapter ``failed``: an older one may still be served in its place.
    """
    if not chosen.prune or chosen.publish is None or requests.manifest is None:
        return [], []
    if failed:
        can = "can be" if chosen.dry_run else "were"
        prunes = "nothing would be pruned" if chosen.dry_run else "nothing is pruned"
        to_stderr(f"{prunes}: not all adapters {can} fetched and published")
        return [], []
    folder, staying = Path(chosen.publish).expanduser(), {entry.name for entry in requests.manifest.adapters}
    removed, kept = prune(folder, staying, dry_run=chosen.dry_run)
    for name in removed:
        done = "would prune" if chosen.dry_run else "pruned"
        inform(f"{done} {chosen.publish}/{name}: it is not in the manifest", settings)
    for one in kept:
        inform(render_not_pruned(chosen.publish, one), settings)
    return removed, kept


def _terms(requests: FetchRequests, file: "LockFile | None", chosen: FetchOptions, settings: Settings) -> "Terms":
    """How adapters are judged before they are published: on the manifest's engine, against its base as it is locked.

    Without a manifest's base, each is judged against its own.

    Raises:
        NotFound, AccessDenied, Unreachable, FormatError: the manifest's base cannot be read.
    """
    from lora_cli.documents.lockfile import locked_base
    from lora_cli.judging.base_model import Bases
    from lora_cli.judging.judge import Terms

    manifest, model = requests.manifest, None
    inputs = Inputs(requests.adapters, "", manifest)
    engines = named_engines((), manifest)
    deployment = deployment_of(engines, inputs, inputs.max_lora_rank)
    if manifest is not None and manifest.base is not None:
        locked = (
            None if chosen.upgrade and not chosen.refs else locked_base(manifest, None if file is None else file.lock)
        )
        ref = manifest.base if locked is None else ref_at(manifest.base, locked)
        model = base_model(ref, settings, locked, "the manifest's base")
    return Terms(
        model,
        None if model is not None else Bases(settings, way="set base: in a manifest"),
        engines=engines,
        deployment=deployment,
    )


def destination_of(requests: FetchRequests, store: Store, chosen: FetchOptions, settings: Settings) -> Destination:
    """The destination that ``--to``, or ``--publish`` with the name of the base, selects.

    Raises:
        UsageError: options conflict, a folder is empty, or a name cannot be the folder of one adapter.
    """
    for name in ("no_validate", "keep_going"):
        if getattr(chosen, name) and chosen.publish is None:
            raise UsageError(f"--{name.replace('_', '-')} needs --publish", hint="--publish DIRECTORY")
    if chosen.prune and (chosen.publish is None or requests.manifest is None):
        hint = f"-f {chosen.manifest or 'MANIFEST'} --publish {chosen.publish or 'DIRECTORY'} --prune"
        raise UsageError("--prune needs a manifest and --publish", hint=hint)
    if chosen.to is not None and chosen.publish is not None:
        raise UsageError(
            "--to and --publish cannot be used together", hint="fetch twice: the second fetch uses the cache"
        )
    if chosen.publish is not None:
        served = chosen.base_name or _repository(requests)
        published = folders(chosen.publish, requests.adapters, "--publish", by_name=True)
        return Destination(store, published, settings, published=True, served=served)
    targets = None if chosen.to is None else folders(chosen.to, requests.adapters, "--to", by_name=not requests.alone)
    return Destination(store, targets, settings)


def _repository(requests: FetchRequests) -> str | None:
    """The base's name in the engine: the repository in the manifest; None for a folder, which can have any name."""
    base = requests.manifest.base if requests.manifest is not None else None
    return base.location if base is not None and base.scheme == "hf" and not base.subfolder else None


def unchecked_base_warning(requests: FetchRequests, destination: Destination) -> str:
    """A warning if the engine's name for the base is unknown; empty otherwise."""
    if not destination.published or destination.served is not None:
        return ""
    base = requests.manifest.base if requests.manifest is not None else None
    is_path = base is not None and base.scheme == "file"
    why = "no base is set" if base is None else f"the manifest's base is {'a path' if is_path else base}"
    return f"the base was not checked for publishing: {why}; set --base-name NAME to the engine's --model"


def _warnings(outcome: Outcome, *, judged: bool) -> Iterator[str]:
    """Warnings about an adapter that was published; ``judged``: after it was validated."""
    name = safe(outcome.request.name)
    yield from (f"{name}: {safe(reason)}" for reason in outcome.unchecked)
    if outcome.published is None or outcome.fetched is None:
        return
    if outcome.published.replaced:
        yield f"{name} replaces other content: an engine may mix both; publish under a new name"
    pickled = [path for path in outcome.fetched.snapshot.files if format_of(path) == "pickle"]
    if pickled and not judged:
        yield f"{name} is published with pickled weights ({safe(names(pickled))}) unchecked: unpickling can run code"


def progress_of(settings: Settings, count: int) -> AbstractContextManager[Progress]:
    """Bars for ``count`` adapters on a terminal; else only waits are told."""
    if not is_interactive(settings):
        return nullcontext(SILENT)
    from lora_cli.cli.progress import fetch_progress

    return fetch_progress(count)


def _fetch_all(
    requests: FetchRequests, destination: Destination, chosen: FetchOptions, settings: Settings
) -> list[Outcome]:
    """Fetches all adapters, here or on a Ray cluster, and writes each to its destination.

    A terminal shows errors at once, and a table at the end. In a pipe, and with ``--quiet``, each directory is printed
    as soon as it is complete.
    """
    done: list[Outcome] = []
    tabular = chosen.output_format == "human" and sys.stdout.isatty() and not settings.quiet
    began_s = time.perf_counter()
    for folder in {target.parent for target in destination.targets or ()}:
        remove_leftovers(folder)
    try:
        with progress_of(settings, len(requests.adapters)) as progress:
            if chosen.ray is not None:
                from lora_cli.fleet.fetching import bring_fleet

                outcomes = bring_fleet(chosen.ray, requests.adapters, settings)
            else:
                outcomes = fetch_all(requests.adapters, destination.store, settings, progress=progress)
            for number, fetched in enumerate(outcomes):
                done.append(outcome := destination.deliver(fetched, number))
                progress.adapter_ended(outcome.request.name)
                # The table at the end has everything except errors.
                if outcome.error is not None or not (settings.quiet or tabular):
                    to_stderr(render_line(fetched_adapter(outcome)))
                for warning in _warnings(outcome, judged=destination.terms is not None):
                    inform(f"warning: {warning}", settings)
                if chosen.output_format == "human" and outcome.directory is not None and not tabular:
                    write(f"{outcome.directory}\n")
    except KeyboardInterrupt:
        inform("interrupted: downloaded data is kept; run the same command to continue", settings)
        raise
    finally:
        if tabular and done:
            write(render_parts(fetched_parts(list(map(fetched_adapter, done)), time.perf_counter() - began_s)))
    return done
