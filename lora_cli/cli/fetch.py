"""``lora-cli fetch``: references in, directories out.

The way through: ``wanted`` says what is asked for, ``fetch.many`` brings it, ``handing`` puts it where it is wanted,
and here it is said.
"""

import sys
from pathlib import Path
from typing import Annotated

import typer

from lora_cli.cli import options
from lora_cli.cli.handing import Handing, folders
from lora_cli.cli.output import Format, colour, width, write
from lora_cli.cli.progress import shown_progress
from lora_cli.cli.wanted import order
from lora_cli.fetch import Selection
from lora_cli.fetch.many import Outcome, bring_all
from lora_cli.settings import Settings, with_flags
from lora_cli.store import Store
from lora_cli.store.tag import check_folder


def command(
    ctx: typer.Context,
    refs: options.Refs = None,
    manifest: options.Manifest = None,
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
    max_bytes: options.MaxBytes = None,
    offline: options.Offline = False,
    jobs: options.Jobs = None,
    timeout: options.Timeout = None,
    retries: options.Retries = None,
    output_format: options.OutputFormat = Format.HUMAN,
) -> None:
    """Resolve adapters, pin their version and download them into the cache."""
    flags = {"max_bytes": max_bytes, "offline": offline or None, "jobs": jobs, "timeout": timeout, "retries": retries}
    settings = with_flags(ctx.obj, flags)
    asked = order(refs or [], manifest, revision=revision, subfolder=subfolder)
    targets = None if to is None else folders(to, asked.adapters)
    handing = Handing(Store(settings.cache_dir), targets, views=asked.manifest is not None)
    check_folder(handing.store)
    selection = Selection(tuple(include or ()), tuple(exclude or ()), allow_pickle)
    done: list[tuple[Outcome, Path | None]] = []
    with shown_progress(settings) as progress:
        outcomes = bring_all(
            asked.adapters,
            handing.store,
            settings,
            progress=progress,
            selection=selection,
            policy=asked.policy,
            link=link,
        )
        for outcome, directory in handing.hand_out_each(outcomes):
            done.append((outcome, directory))
            with progress.paused():
                _say(outcome, directory, settings, output_format)
    if output_format is Format.JSON:
        from lora_cli.render.json_store import render_outcomes

        write(render_outcomes(done))
    raise typer.Exit(max((outcome.exit_code for outcome, _ in done), default=0))


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
