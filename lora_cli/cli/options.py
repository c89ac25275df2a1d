"""Options that mean the same in every command that has them: declared once, with one help text."""

from pathlib import Path
from typing import Annotated

import typer

from lora_cli.cli.output import Format

Refs = Annotated[list[str] | None, typer.Argument(metavar="REF...", help="Paths or references.")]
Manifest = Annotated[Path | None, typer.Option("--manifest", "-f", help="An adapter set instead of REFs.")]
Base = Annotated[str, typer.Option(help="The base: a directory, a config.json, a Hub id or a reference.")]
OutputFormat = Annotated[Format, typer.Option("--format", help="How to write the result.")]

# What overrides the settings: a command hands these on with ``settings.with_flags``.
MaxBytes = Annotated[str | None, typer.Option(help="Refuse larger adapters: 2GiB.", show_default=False)]
Offline = Annotated[bool, typer.Option("--offline", help="Only what is in the cache.")]
Jobs = Annotated[int | None, typer.Option(min=1, max=256, help="Ranges in flight.", show_default=False)]
Timeout = Annotated[str | None, typer.Option(help="Longest silence of the network: 30s.")]
Retries = Annotated[int | None, typer.Option(min=0, max=100, help="Tries without progress.")]
