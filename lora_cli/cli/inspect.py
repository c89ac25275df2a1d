"""``lora-cli inspect``: what an adapter is, from its config and header alone, and what it takes to serve some."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from lora_cli.check import Checked, Terms, check_all
from lora_cli.cli import engine_args as flags
from lora_cli.cli import options, typer
from lora_cli.cli.lineup import Lineup, base_model, lineup, reaching
from lora_cli.cli.output import DEFAULT_WIDTH, Format, colour, width, writable, write
from lora_cli.core.frozen import replace
from lora_cli.core.inspection import Inspection, inspection_of
from lora_cli.rules import choose
from lora_cli.settings import Settings

if TYPE_CHECKING:
    from lora_cli.check.engine_args import EngineArgs
    from lora_cli.core.base_model import BaseModel
    from lora_cli.engines import Profile

OF_VALUES = "LC5"
"""What ``inspect`` does not look at, and so does not list as skipped."""

Inspected = tuple[Checked, Inspection | None]


def command(
    ctx: typer.Context,
    refs: options.Refs = None,
    manifest: options.Manifest = None,
    checkpoint: options.Checkpoint = "",
    base: Annotated[str, typer.Option(help="A base model, to say how many modules apply.")] = "",
    policy: options.PolicyFile = None,
    engine_args: flags.EngineArgs = "",
    max_loras: flags.MaxSlots = None,
    max_cpu_loras: flags.MaxCpuLoras = None,
    tp: flags.Tp = 1,
    output_format: options.OutputFormat = Format.HUMAN,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write to this file.")] = None,
) -> None:
    """Say what adapters are, from their headers alone, local or remote, and with which flags an engine serves them."""
    if output is not None:
        writable(output)
    asked = lineup(manifest, refs or [], base, "inspect", "inspect", checkpoint, needs_base=False)
    settings = reaching(ctx.obj, asked.manifest, policy)
    engine = flags.engine_of(engine_args, asked)
    deployed = flags.deployed_of(asked, engine, max_loras, max_cpu_loras, tp) if engine is not None else None
    model = base_model(asked.base, settings) if asked.base else None
    judged = _judged(asked, model, engine, tp, settings)
    if engine is None or deployed is None:
        text, code = _told((_inspected(one, model, settings) for one in judged), model, output_format, output)
    else:
        from lora_cli.check.engine_args import engine_args as smallest

        all_judged = list(judged)
        named = [(item.name, one) for item, one in zip(asked.items, all_judged, strict=True)]
        deployed = replace(deployed, folders=flags.folders_of(named, settings))
        args = smallest(named, engine, model, deployed)
        text = _told_flags(args, [_inspected(one, model, settings) for one in all_judged], output_format, output)
        code = max(args.exit_code, *(one.read_code for one in all_judged))
    if text:
        write(text, output)
    raise typer.Exit(code)


def _judged(
    asked: Lineup, base: "BaseModel | None", engine: "Profile | None", tp: int, settings: Settings
) -> Iterator[Checked]:
    """Each adapter, read and judged: by PEFT's rules, or by those of the engine that is to serve it, at its widest."""
    items = [(item.name if asked.manifest else "", item.source) for item in asked.items]
    held_to = zip(items, asked.items, strict=True) if settings.policies else ()
    demands = {one: asked.demand(item) for one, item in held_to}
    latest = {one for one, item in zip(items, asked.items, strict=True) if item.latest}
    terms = Terms(base, values=False, rules=choose(ignore=[OF_VALUES]), card=True)
    if engine is not None:
        from lora_cli.core.deployment import Deployment

        widest = Deployment(tp=tp, max_lora_rank=max(engine.engine.ranks, default=None))
        terms = replace(terms, engines=(engine,), deployment=widest)
    return check_all(items, terms, settings, demands=demands, latest=latest)


def _told(
    inspected: Iterable[Inspected], base: "BaseModel | None", output_format: Format, output: Path | None
) -> tuple[str, int]:
    """What is to be written, and the exit code. People see each adapter as soon as it is read."""
    code = 0
    if output_format is Format.JSON:
        from lora_cli.render.json_inspection import render_inspections

        done = list(inspected)
        return render_inspections(done, base), max(checked.read_code for checked, _ in done)
    from lora_cli.render.human.inspection import render_inspection

    wide, coloured = (width(), colour()) if output is None else (DEFAULT_WIDTH, False)
    blocks: list[str] = []
    for number, one in enumerate(inspected):
        text = ("\n" if number else "") + render_inspection(*one, wide, colour=coloured)
        code = max(code, one[0].read_code)
        if output is None:
            write(text)
        else:
            blocks.append(text)
    return "".join(blocks), code


def _told_flags(args: "EngineArgs", done: list[Inspected], output_format: Format, output: Path | None) -> str:
    if output_format is Format.JSON:
        from lora_cli.render.json_inspection import render_inspections

        return render_inspections(done, args.base, args)
    from lora_cli.render.human.engine_args import render_engine_args

    wide, coloured = (width(), colour()) if output is None else (DEFAULT_WIDTH, False)
    return render_engine_args(args, wide, colour=coloured)


def _inspected(checked: Checked, base: "BaseModel | None", settings: Settings) -> Inspected:
    if checked.adapter is None:
        return checked, None
    inspection = inspection_of(checked.adapter, base, checked.card)
    return checked, replace(inspection, snapshot=_cached(checked, settings))


def _cached(checked: Checked, settings: Settings) -> str:
    """The digest of the snapshot that ``fetch`` made of this very revision, if it did."""
    if checked.revision is None or not settings.cache_dir.is_dir():
        return ""
    from lora_cli.store import Store
    from lora_cli.store.records import read_record

    record = read_record(Store(settings.cache_dir), checked.source)
    return record.snapshot if record is not None and record.revision == checked.revision.id else ""
