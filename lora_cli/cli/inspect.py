"""``lora-cli inspect``: what an adapter is, from its config and header alone."""

from pathlib import Path
from typing import Annotated

from lora_cli.check import Checked, Terms, check_all
from lora_cli.cli import options, typer
from lora_cli.cli.lineup import base_model, from_refs
from lora_cli.cli.output import DEFAULT_WIDTH, Format, colour, width, writable, write
from lora_cli.core.frozen import replace
from lora_cli.core.inspection import Inspection, inspection_of
from lora_cli.rules import choose
from lora_cli.settings import Settings

OF_VALUES = "LC5"
"""What ``inspect`` does not look at, and so does not list as skipped."""


def command(
    ctx: typer.Context,
    refs: Annotated[list[str], typer.Argument(metavar="REF...", help="Paths or references.")],
    checkpoint: options.Checkpoint = "",
    base: Annotated[str, typer.Option(help="A base model, to say how many modules apply.")] = "",
    output_format: options.OutputFormat = Format.HUMAN,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write to this file.")] = None,
) -> None:
    """Say what an adapter is, from its header alone, local or remote."""
    settings: Settings = ctx.obj
    if output is not None:
        writable(output)
    rules = choose(ignore=[OF_VALUES])
    terms = Terms(base_model(base, settings) if base else None, values=False, rules=rules)
    asked = from_refs(refs, checkpoint)
    items = [("", item.source) for item in asked]
    latest = {one for one, item in zip(items, asked, strict=True) if item.latest}
    done = [(checked, _inspection(checked, settings)) for checked in check_all(items, terms, settings, latest=latest)]
    if output_format is Format.JSON:
        from lora_cli.render.json_verdicts import render_inspections

        text = render_inspections(done)
    else:
        from lora_cli.render.human.inspection import render_inspection

        wide, coloured = (width(), colour()) if output is None else (DEFAULT_WIDTH, False)
        text = "\n".join(render_inspection(*one, wide, colour=coloured) for one in done)
    write(text, output)
    raise typer.Exit(max(_exit_code(checked) for checked, _ in done))


def _inspection(checked: Checked, settings: Settings) -> Inspection | None:
    if checked.adapter is None:
        return None
    return replace(inspection_of(checked.adapter), snapshot=_cached(checked, settings))


def _cached(checked: Checked, settings: Settings) -> str:
    """The digest of the snapshot that ``fetch`` made of this very revision, if it did."""
    if checked.revision is None or not settings.cache_dir.is_dir():
        return ""
    from lora_cli.store import Store
    from lora_cli.store.records import read_record

    record = read_record(Store(settings.cache_dir), checked.source)
    return record.snapshot if record is not None and record.revision == checked.revision.id else ""


def _exit_code(checked: Checked) -> int:
    """1 for an adapter that is there and cannot be read; findings about one that can are told, and are no failure."""
    if checked.error is not None:
        return checked.error.exit_code
    adapter = checked.adapter
    unreadable = adapter is None or adapter.config is None or adapter.weights_error is not None
    return int(unreadable or (adapter is not None and not adapter.weight_files))
