"""``lora-cli fetch``: references in, directories out."""

import os
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lora_cli.cli.lineup import manifest_of
from lora_cli.cli.output import Format, colour, width, write
from lora_cli.cli.progress import shown_progress
from lora_cli.core.reference import override, parse
from lora_cli.core.snapshot import Snapshot
from lora_cli.errors import LoraCliError, MachineError, UsageError
from lora_cli.fetch import Selection
from lora_cli.fetch.many import Outcome, Wanted, bring_all
from lora_cli.settings import OPTIONS, Settings, parse_size
from lora_cli.store import Store
from lora_cli.store.tag import check_folder

if TYPE_CHECKING:
    from lora_cli.core.policy import Policy

_FOLDER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", re.ASCII)


def command(
    ctx: typer.Context,
    refs: Annotated[list[str] | None, typer.Argument(metavar="REF...", help="Paths or references.")] = None,
    manifest: Annotated[Path | None, typer.Option("--manifest", "-f", help="An adapter set instead of REFs.")] = None,
    revision: Annotated[str | None, typer.Option(help="A branch, tag or commit, for each REF.")] = None,
    subfolder: Annotated[str, typer.Option(help="The adapter's folder in each REF.")] = "",
    to: Annotated[
        str | None,
        typer.Option(
            metavar="DIRECTORY",
            help="Hand it out here, several by name; do not edit the weights, they are the cache's.",
        ),
    ] = None,
    link: Annotated[bool, typer.Option("--link", help="Hard-link a folder's weights into the cache.")] = False,
    include: Annotated[list[str] | None, typer.Option(help="Also files that match this glob.")] = None,
    exclude: Annotated[list[str] | None, typer.Option(help="Not the files that match this glob.")] = None,
    allow_pickle: Annotated[bool, typer.Option("--allow-pickle", help="Take .bin where no safetensors are.")] = False,
    max_bytes: Annotated[str | None, typer.Option(help="Refuse larger adapters: 2GiB.", show_default=False)] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Only what is in the cache.")] = False,
    jobs: Annotated[int | None, typer.Option(min=1, max=256, help="Ranges in flight.", show_default=False)] = None,
    timeout: Annotated[str | None, typer.Option(help="Longest silence of the network: 30s.")] = None,
    retries: Annotated[int | None, typer.Option(min=0, max=100, help="Tries without progress.")] = None,
    output_format: Annotated[Format, typer.Option("--format", help="How to write the result.")] = Format.HUMAN,
) -> None:
    """Resolve adapters, pin their version and download them into the cache."""
    settings = _settings(ctx.obj, max_bytes, offline, jobs, timeout, retries)
    wanted, policy = _wanted(refs or [], manifest, revision, subfolder)
    targets = None if to is None else _targets(to, wanted)
    handing = Handing(Store(settings.cache_dir), targets, views=manifest is not None)
    check_folder(handing.store)
    selection = Selection(tuple(include or ()), tuple(exclude or ()), allow_pickle)
    done: list[tuple[Outcome, Path | None]] = []
    with shown_progress(settings) as progress:
        outcomes = bring_all(
            wanted, handing.store, settings, progress=progress, selection=selection, policy=policy, link=link
        )
        for outcome, directory in handing.hand_out_each(outcomes):
            done.append((outcome, directory))
            with progress.paused():
                _say(outcome, directory, settings, output_format)
    if output_format is Format.JSON:
        from lora_cli.render.json_store import render_outcomes

        write(render_outcomes(done))
    raise typer.Exit(max((outcome.exit_code for outcome, _ in done), default=0))


@dataclass(frozen=True, slots=True)
class Handing:
    """Where adapters can be used: in the store, or in the folder of ``targets`` for the adapter of that number.

    With ``views`` the store also keeps each one under its name.
    """

    store: Store
    targets: Sequence[Path] | None
    views: bool = False

    def hand_out_each(self, outcomes: Iterator[Outcome]) -> Iterator[tuple[Outcome, Path | None]]:
        """Each outcome with its directory; one that cannot be handed out has failed."""
        for number, outcome in enumerate(outcomes):
            if outcome.fetched is None:
                yield outcome, None
            else:
                yield self._handed(outcome, outcome.fetched.snapshot, self.targets[number] if self.targets else None)

    def _handed(self, outcome: Outcome, snapshot: Snapshot, target: Path | None) -> tuple[Outcome, Path | None]:
        from lora_cli.store.blobs import LostBlob
        from lora_cli.store.handout import hand_out
        from lora_cli.store.views import keep_view

        try:
            if self.views:
                keep_view(self.store, outcome.wanted.name, snapshot)
            return outcome, hand_out(self.store, snapshot, target) if target else snapshot.directory.absolute()
        except LostBlob:
            error: LoraCliError = MachineError(f"{self.store.root} is being cleaned meanwhile", hint="try again")
        except LoraCliError as refused:
            error = refused
        return replace(outcome, error=error), None


def _settings(
    settings: Settings,
    max_bytes: str | None,
    offline: bool,
    jobs: int | None,
    timeout: str | None,
    retries: int | None,
) -> Settings:
    try:
        return replace(
            settings,
            jobs=jobs or settings.jobs,
            retries=settings.retries if retries is None else retries,
            offline=offline or settings.offline,
            timeout_s=settings.timeout_s if timeout is None else OPTIONS["timeout"][1](timeout),
            max_bytes=settings.max_bytes if max_bytes is None else parse_size(max_bytes),
        )
    except ValueError as error:
        raise UsageError(str(error)) from error


def _wanted(
    refs: Sequence[str], manifest: Path | None, revision: str | None, subfolder: str
) -> "tuple[list[Wanted], Policy | None]":
    """What is to be fetched, and under which policy; exactly one of REFs and a manifest is wanted."""
    if manifest is not None and (revision is not None or subfolder):
        raise UsageError("--revision and --subfolder are for REFs", hint="write them into the manifest's sources")
    adapter_set = manifest_of(manifest, refs, "fetch")
    if adapter_set is not None:
        return [Wanted(entry.name, entry.source, entry.sha256) for entry in adapter_set.adapters], adapter_set.policy
    return [_asked(text, revision, subfolder) for text in refs], None


def _asked(text: str, revision: str | None, subfolder: str) -> Wanted:
    """What one word asks for; what is no reference is an outcome of its own, and stops no other one."""
    from lora_cli.core.addresses import without_secrets

    try:
        ref = override(parse(text, is_path=os.path.lexists), revision=revision, subfolder=subfolder)
    except UsageError as error:
        return Wanted(without_secrets(text), error)
    return Wanted(ref.name, ref)


def _targets(to: str, wanted: Sequence[Wanted]) -> list[Path]:
    """The folder of each adapter: ``to`` itself for one reference, folders in it for several."""
    if not to:
        raise UsageError("--to names no folder", hint="--to DIRECTORY")
    root = Path(os.path.abspath(Path(to).expanduser()))  # noqa: PTH100 - links stay links
    if len(wanted) == 1:
        return [root]
    names = [item.name for item in wanted]
    for name in (item.name for item in wanted if not isinstance(item.ref, UsageError)):
        if not _FOLDER.fullmatch(name) or names.count(name) > 1:
            raise UsageError(
                f"{name!r} cannot be the folder of one adapter in {root}",
                hint="give each a name in a manifest, with -f",
            )
    return [root / name for name in names]


def _say(outcome: Outcome, directory: Path | None, settings: Settings, output_format: Format) -> None:
    """A directory on standard output; beside it a block on a terminal, and a line on standard error elsewhere."""
    from lora_cli.render.human.fetched import render_line, render_outcome

    if output_format is Format.HUMAN and sys.stdout.isatty():
        write(render_outcome(outcome, directory, width(), colour=colour()))
        return
    if outcome.error is not None or not settings.quiet:
        typer.echo(render_line(outcome), err=True)
    if output_format is Format.HUMAN and directory is not None:
        write(f"{directory}\n")
