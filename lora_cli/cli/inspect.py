"""``lora-cli inspect``: what an adapter is, from its config and header alone, and what it takes to serve some."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lora_cli.cli import completion, numbers, options
from lora_cli.cli import engine_args as flags
from lora_cli.cli.lineup import Lineup, base_model, lineup, reaching
from lora_cli.cli.options import ADAPTERS, OUTPUT, option
from lora_cli.cli.output import (
    DEFAULT_WIDTH,
    ReportFormat,
    colour,
    drawable,
    to_stderr,
    width,
    writable,
    write,
    written,
)
from lora_cli.core.inspection import Inspection, inspection_of
from lora_cli.core.patterns import one_budget
from lora_cli.rules import choose
from lora_cli.settings import Settings
from lora_cli.validation import Checked, Terms, check_all

if TYPE_CHECKING:
    from lora_cli.core.base_model import BaseModel
    from lora_cli.engines import Profile
    from lora_cli.validation.engine_args import EngineArgs

OF_VALUES = "LC5"
"""What ``inspect`` does not look at, and so does not list as skipped."""

Inspected = tuple[Checked, Inspection | None]

VALUES = "Values of the tensors"

InspectFormat = Annotated[ReportFormat, option("--format", panel=OUTPUT, help="The format of the result.")]
InspectBase = Annotated[
    str,
    option(
        "--base",
        panel=ADAPTERS,
        metavar="REF",
        help="The base model: shows how many modules apply.",
        autocompletion=completion.references,
    ),
]
Spectrum = Annotated[
    bool, option("--spectrum", panel=VALUES, help="Show how large each module's update is, and its singular values.")
]
Diff = Annotated[
    str | None,
    option(
        "--diff",
        panel=VALUES,
        metavar="REF",
        help="Show how each adapter differs from this one.",
        autocompletion=completion.references,
    ),
]
EXAMPLES = (
    "lora-cli inspect acme/sql",
    "lora-cli inspect -f set.yaml --engine-args vllm",
    "lora-cli inspect ./v2 --diff ./v1",
)


def command(
    ctx: typer.Context,
    refs: options.Refs = None,
    manifest: options.Manifest = None,
    checkpoint: options.Checkpoint = "",
    base: InspectBase = "",
    policy: options.PolicyFile = None,
    engine_args: flags.EngineArgs = "",
    max_loras: flags.MaxSlots = None,
    max_cpu_loras: flags.MaxCpuLoras = None,
    tp: flags.Tp = 1,
    spectrum: Spectrum = False,
    diff: Diff = None,
    output_format: InspectFormat = ReportFormat.HUMAN,
    output: options.OutputFile = None,
) -> None:
    """Show what adapters are, from their headers alone, local or remote.

    With --engine-args also how to start an engine that serves them. --spectrum and --diff read the tensors.
    """
    if output is not None:
        writable(output)
    asked = lineup(manifest, refs or [], base, "inspect", "inspect", checkpoint, needs_base=False)
    settings = reaching(ctx.obj, asked.manifest, policy)
    engine = flags.engine_of(engine_args, asked)
    deployed = flags.deployed_of(asked, engine, max_loras, max_cpu_loras, tp) if engine is not None else None
    model = base_model(asked.base, settings) if asked.base else None
    terms = _terms(model, engine, tp)
    if spectrum or diff is not None:
        sources = [str(item.source) for item in asked.items]
        terms = numbers.asking(terms, sources, asked.base, settings, spectrum=spectrum, diff=diff)
    judged = _judged(asked, terms, settings)
    done = [_inspected(one, model, settings) for one in judged]
    args = None
    if engine is not None and deployed is not None:
        from lora_cli.validation.engine_args import engine_args as smallest

        named = [(item.name, one) for item, (one, _) in zip(asked.items, done, strict=True)]
        deployed = replace(deployed, folders=flags.folders_of(named, settings))
        args = smallest(named, engine, model, deployed)
    code = _told(done, model, output_format, output, args, quiet=settings.quiet)
    raise typer.Exit(code if args is None else max(code, args.exit_code))


def _terms(base: "BaseModel | None", engine: "Profile | None", tp: int) -> Terms:
    """Judged by PEFT's rules, or by those of the engine that is to serve the adapters, at its widest."""
    terms = Terms(base, values=False, rules=choose(ignore=[OF_VALUES]), card=True)
    if engine is None:
        return terms
    from lora_cli.core.deployment import Deployment

    widest = Deployment(tp=tp, max_lora_rank=max(engine.engine.ranks, default=None))
    return replace(terms, engines=(engine,), deployment=widest)


def _judged(asked: Lineup, terms: Terms, settings: Settings) -> Iterator[Checked]:
    """Each adapter, read and judged."""
    items = [(item.name if asked.manifest else "", item.source) for item in asked.items]
    demands = asked.demands(items, settings)
    latest = {one for one, item in zip(items, asked.items, strict=True) if item.latest}
    return check_all(items, terms, settings, demands=demands, latest=latest)


def _told(
    done: Sequence[Inspected],
    base: "BaseModel | None",
    form: ReportFormat,
    output: Path | None,
    args: "EngineArgs | None",
    *,
    quiet: bool,
) -> int:
    """Write the result; the exit code of what could not be read."""
    if form is ReportFormat.HUMAN and args is not None and output is None and not sys.stdout.isatty():
        _command_alone(done, args, quiet=quiet)
    else:
        write(_text(done, base, form, args, output), output)
        written(output, quiet=quiet)
    return max(checked.read_code for checked, _ in done)


def _text(
    done: Sequence[Inspected],
    base: "BaseModel | None",
    form: ReportFormat,
    args: "EngineArgs | None",
    output: Path | None,
) -> str:
    if form is ReportFormat.HTML:
        from lora_cli.render.html import render_inspections as render_page

        return render_page(done, args)
    from lora_cli.render.json_inspection import inspect_report, render_inspections

    if form is ReportFormat.JSON:
        return render_inspections(done, base, args)
    from lora_cli.render.terminal_inspect import render_engine_args
    from lora_cli.render.terminal_inspect import render_inspections as render_text

    checked = [one for one, _ in done]
    wide, coloured = (width(), colour()) if output is None else (DEFAULT_WIDTH, False)
    plain = output is None and not drawable()
    if args is not None:
        return "\n".join(filter(None, render_engine_args(args, checked, wide, colour=coloured, plain=plain)))
    return render_text(inspect_report(done, base, None), checked, wide, colour=coloured, plain=plain)


def _command_alone(done: Sequence[Inspected], args: "EngineArgs", *, quiet: bool) -> None:
    """To a pipe the command that starts the engine, to be run by a shell; what it costs to standard error."""
    from lora_cli.render.terminal_inspect import render_engine_args

    above, command, below = render_engine_args(args, [one for one, _ in done], width())
    write(command)
    if not quiet:
        to_stderr(f"{above}\n{below}".rstrip("\n"))


def _inspected(checked: Checked, base: "BaseModel | None", settings: Settings) -> Inspected:
    if checked.adapter is None:
        return checked, None
    with one_budget():
        inspection = inspection_of(checked.adapter, base, checked.card)
    return checked, replace(inspection, snapshot=_cached(checked, settings))


def _cached(checked: Checked, settings: Settings) -> str:
    """The digest of the snapshot that ``fetch`` made of this very revision, if it did."""
    if checked.revision is None or not settings.cache_dir.is_dir():
        return ""
    from lora_cli.sources.registry import endpoint_of
    from lora_cli.store import Store
    from lora_cli.store.records import read_record

    endpoint = endpoint_of(checked.revision.ref, settings)
    record = read_record(Store(settings.cache_dir), checked.source, endpoint=endpoint)
    return record.snapshot if record is not None and record.revision == checked.revision.id else ""
