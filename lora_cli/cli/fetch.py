"""``lora-cli fetch``: downloads adapters into the cache, ``--to`` or ``--publish``."""

import os
import re
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from lora_cli.cli import options
from lora_cli.cli.options import adapters, in_shard, option, outputs
from lora_cli.cli.output import (
    Format,
    inform,
    log_failures,
    to_stderr,
    write,
    write_result,
)
from lora_cli.cli.progress import shown
from lora_cli.errors import UsageError
from lora_cli.fetching.batch import Outcome, fetch_all
from lora_cli.inputs import Inputs, apply_policies, inputs_to_fetch, terms_of, write_lock
from lora_cli.json_schema import to_json
from lora_cli.judging.publishing import Destination, folders
from lora_cli.refs.request import LockFlags, Selection
from lora_cli.reports.fetch import (
    FetchReport,
    LockChanges,
    adapter_line,
    changes_lines,
    fetched_adapter,
    human_check,
    human_plan,
    lock_changes,
    not_pruned_line,
    summary,
)
from lora_cli.settings import Settings
from lora_cli.store import Store
from lora_cli.store.materialize import NotPruned, mark_of, prune, remove_leftovers
from lora_cli.text import safe
from lora_cli.version import __version__

if TYPE_CHECKING:
    from lora_cli.fetching.lock_update import SetLock

EXAMPLES = (
    "lora-cli fetch acme/sql@v2 s3://acme-adapters/chat",
    "lora-cli fetch -f set.yaml --locked",
    "lora-cli fetch acme/sql --to ./adapters/sql",
)

BY_POLICY = re.compile(r": policy [a-z0-9_]+: ")
"""In the message of an error that a policy, or the signature that it requires, is the reason of."""

REFUSED_STAYS, EARLIER_STAYS = "it stays published; --prune removes it", "its earlier version stays published"

locking = partial(option, panel="Locking")
publishing = partial(option, panel="With --publish")


def command(
    ctx: typer.Context,
    refs: options.Refs = None,
    manifest: options.Manifest = None,
    locked: bool = locking("--locked", "Fetch exactly the locked versions or fail; never write the lock."),
    check: bool = locking("--check", "Show what changed since the lock; fetch nothing."),
    upgrade: bool = locking("--upgrade", "Lock the newest versions of all adapters, or of the NAMEs given."),
    dry_run: options.DryRun = False,
    to: str | None = outputs("--to DIRECTORY", "Write the files here, one folder each if several; do not edit them."),
    publish: str | None = outputs(
        "--publish DIRECTORY", "Write each that passes to DIRECTORY/NAME for vLLM's resolver."
    ),
    no_validate: bool = publishing("--no-validate", "Publish without validating."),
    keep_going: bool = publishing("--keep-going", "Exit 0 if any adapter is published, although others failed."),
    prune: bool = publishing("--prune", "Remove published adapters that are refused or that the manifest lacks."),
    base_name: str | None = publishing("--base-name NAME", "The base model's name in the engine."),
    include: list[str] | None = adapters("--include GLOB", "Also fetch matching files; may be repeated."),
    allow_pickle: bool = adapters("--allow-pickle", "Accept .bin weights without safetensors."),
    policy: options.PolicyFile = None,
    shard: options.Shard = None,
    ray: options.Ray = None,
    output_format: options.OutputFormat = "human",
) -> None:
    """Download adapters into the cache, pinned and verified.

    In a pipe, prints one absolute directory per adapter. With -f, writes a lock next to the manifest.
    """
    flags = LockFlags(locked, check, upgrade, bool(refs), keep_going)
    _refuse(ctx.params, flags)
    whole = inputs_to_fetch(manifest, refs or [], Selection(tuple(include or ()), allow_pickle), flags)
    settings, lock = apply_policies(ctx.obj, whole.manifest, policy), whole.lock
    # A word that is no reference has a name only.
    items = in_shard(whole.items, shard, lambda one: one.name if whole.manifest or one.invalid else str(one.source))
    inputs, store = replace(whole, items=items), Store(settings.cache_dir)
    if lock is not None:
        base = () if inputs.base_request is None else (inputs.base_request,)
        if moved := lock.moved((*inputs.items, *base), settings):
            inform(moved, settings)
        if check:
            raise typer.Exit(_report_drift(inputs, lock, settings, output_format))
    folder, targets = to if publish is None else publish, None
    if folder is not None:
        several = publish is not None or len(whole.manifest.adapters if whole.manifest else whole.items) > 1
        targets = folders(folder, items, "--to" if publish is None else "--publish", by_name=several)
    pruned_in = folder if prune else None
    if dry_run:
        raise typer.Exit(_dry_run(inputs, pruned_in, settings, output_format))
    named, terms = whole.manifest.base if whole.manifest else None, None
    # A folder can have any name in the engine.
    served = base_name or (named.location if named and named.scheme == "hf" and not named.subfolder else None)
    if publish is not None and served is None:
        inform("the base's name was not compared; set --base-name NAME to the engine's --model", settings)
    if publish is not None and not no_validate:
        terms = terms_of(replace(whole, way="set base: in a manifest"), settings)
    destination = Destination(store, targets, publish is not None, served, terms)
    began_s = time.perf_counter()
    done = _fetch_all(inputs, destination, ray, settings, output_format)
    published = _still_published(done, targets or ())
    refused = [name for name, said in published.items() if said == REFUSED_STAYS]
    pruned, not_pruned = _prune(inputs, pruned_in, settings, refused, dry_run=False)
    failed = [(one.request.name, one.error.message, "") for one in done if one.error is not None]
    for name in [one for one in published if one not in pruned]:
        failed.append((name, published[name], ""))
        to_stderr(f"{name}: {published[name]}")
    changes = None if lock is None else LockChanges(str(lock.path))
    if lock is not None and not locked:
        before, after = write_lock(inputs, done, store, settings, lambda why: inform(f"warning: {why}", settings))
        changes = lock_changes(lock.path, before, after)
        if (changes.added or changes.changed or changes.removed) and not settings.quiet:
            to_stderr(changes_lines(changes, before, after))
    goes_on = keep_going and any(one.published is not None for one in done)
    code = 0 if goes_on else max((one.exit_code for one in done), default=0)
    fetched = list(map(fetched_adapter, done))
    inform(summary(fetched, time.perf_counter() - began_s if settings.verbose else None), settings)
    if output_format == "json":
        report = FetchReport(adapters=fetched, lock=changes, pruned=pruned, not_pruned=not_pruned, exit_code=code)
        write(to_json(report))
    log_failures(failed)
    raise typer.Exit(code)


def _refuse(given: Mapping[str, Any], flags: LockFlags) -> None:
    """Raises ``UsageError`` for options that are not for each other."""
    if given["manifest"] is None and flags.given:
        raise UsageError(f"--{flags.given[0]} is for an adapter set", hint="set it with -f")
    both = (("locked", "check"), ("locked", "upgrade"), ("check", "upgrade"), ("locked", "include"), ("to", "publish"))
    for one, other in (*both, ("check", "to"), ("check", "publish")):
        if given[one] and given[other]:
            raise UsageError(f"--{one} and --{other} cannot be used together", hint="remove one of them")
    for name in ("no_validate", "keep_going", "prune"):
        if given[name] and (given["publish"] is None or (name == "prune" and given["manifest"] is None)):
            needed = "-f set.yaml --publish DIRECTORY" if name == "prune" else "--publish DIRECTORY"
            raise UsageError(f"--{name.replace('_', '-')} needs {needed}", hint="add it, or remove the option")


def _report_drift(inputs: Inputs, lock: "SetLock", settings: Settings, output_format: Format) -> int:
    """Writes what differs from the lock.

    Returns the exit code: 1 for drift, else that of the error of an origin that could not be checked.
    """
    done = list(lock.drifts(inputs.items, inputs.base_request, settings))
    left_over = [] if lock.flags.some else lock.left_over
    code = max([one.exit_code for one in done] + [int(bool(left_over))])
    about = {"schema": "lora_cli/fetch-check/1", "version": __version__, "lock": lock.path}
    report = {**about, "adapters": done, "left_over": left_over, "exit_code": code}
    if output_format == "json" or code or not settings.quiet:
        write_result(report, output_format, human_check(done, left_over))
    return code


def _dry_run(inputs: Inputs, pruned_in: str | None, settings: Settings, output_format: Format) -> int:
    """Shows the planned downloads, and what would be pruned; returns the exit code."""
    from lora_cli.fetching.batch import plan_all

    planned = list(plan_all(inputs.items, Store(settings.cache_dir), settings))
    code = max((one.exit_code for one in planned), default=0)
    refused = {one.name for one in planned if one.error is not None and BY_POLICY.search(one.error.message)}
    pruned, not_pruned = _prune(inputs, pruned_in, settings, refused, dry_run=True)
    about = {"schema": "lora_cli/fetch-plan/1", "version": __version__, "adapters": planned}
    report = {**about, "pruned": pruned, "not_pruned": not_pruned, "exit_code": code}
    write_result(report, output_format, human_plan(planned, verbose=settings.verbose))
    return code


def _still_published(done: Sequence[Outcome], targets: Sequence[Path]) -> dict[str, str]:
    """What is said of adapters that failed and are published: whether that is what was refused."""
    found = {}
    for one, target in zip(done, targets, strict=False):
        if one.error is not None and (digest := mark_of(target).get("snapshot")):
            is_same = one.exit_code == 1 and one.fetched is not None and one.fetched.snapshot.digest == digest
            is_refused = is_same or BY_POLICY.search(one.error.message)
            found[one.request.name] = REFUSED_STAYS if is_refused else EARLIER_STAYS
    return found


def _prune(
    inputs: Inputs, folder: str | None, settings: Settings, refused: Collection[str], *, dry_run: bool
) -> tuple[list[str], list[NotPruned]]:
    """Removes from ``folder`` what is published, and ``refused`` or not in the manifest.

    In a ``dry_run`` it is only reported.
    """
    if folder is None or inputs.manifest is None:
        return [], []
    staying = {entry.name for entry in inputs.manifest.adapters}.difference(refused)
    removed, kept = prune(Path(os.path.expanduser(folder)), staying, dry_run=dry_run)  # noqa: PTH111 - never raises
    for name in removed:
        why = "it is refused" if name in refused else "it is not in the manifest"
        inform(f"{'would prune' if dry_run else 'pruned'} {folder}/{name}: {why}", settings)
    for one in kept:
        inform(not_pruned_line(folder, one), settings)
    return removed, kept


def _fetch_all(
    inputs: Inputs, destination: Destination, ray: str | None, settings: Settings, output_format: Format
) -> list[Outcome]:
    """Fetches all adapters, here or on a Ray cluster, and writes each to its destination.

    Each that is downloaded is told at once, errors at the end. In a pipe, and with ``--quiet``, each directory is
    printed as soon as it is complete.
    """
    done: list[Outcome] = []
    prints_paths = output_format == "human" and (settings.quiet or not sys.stdout.isatty())
    for folder in {target.parent for target in destination.targets or ()}:
        remove_leftovers(folder)
    try:
        with shown(settings, len(inputs.items), "fetched") as progress:
            if ray is not None:
                from lora_cli.fleet import fetch_fleet

                outcomes = fetch_fleet(ray, inputs.items, settings)
            else:
                outcomes = fetch_all(inputs.items, destination.store, settings, progress=progress)
            for number, fetched in enumerate(outcomes):
                done.append(outcome := destination.deliver(fetched, number))
                name = safe(outcome.request.name)
                progress.adapter_ended(outcome.request.name, failed=outcome.error is not None)
                told = fetched_adapter(outcome)
                if told.status == "downloaded" or (settings.verbose and told.error is None):
                    inform(adapter_line(told, verbose=settings.verbose), settings)
                for warning in outcome.warnings:
                    inform(f"warning: {name}: {safe(warning)}", settings)
                if outcome.published is not None and outcome.published.replaced:
                    inform(f"warning: {name} replaces other content: an engine may mix both", settings)
                if prints_paths and outcome.directory is not None:
                    write(f"{outcome.directory}\n")
    except KeyboardInterrupt:
        inform("interrupted: downloaded data is kept; run the same command to continue", settings)
        raise
    finally:
        for outcome in (outcome for outcome in done if outcome.error is not None):
            to_stderr(adapter_line(fetched_adapter(outcome)))
    return done
