"""``lora-cli repair``: an adapter, written so that a named engine serves it right."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from lora_cli.cli import engine_options, options, typer
from lora_cli.cli.lineup import base_model, from_refs, reaching
from lora_cli.cli.output import DEFAULT_WIDTH, Format, colour, width, writable, write
from lora_cli.errors import NotFound, Refused, UsageError
from lora_cli.settings import Settings

if TYPE_CHECKING:
    from lora_cli.validation.repaired import Repaired


def command(
    ctx: typer.Context,
    ref: Annotated[str, typer.Argument(metavar="REF", help="A path or reference.")],
    engine: Annotated[str, typer.Option(metavar="NAME[@VERSION]", help="Which engine will serve it.")],
    to: Annotated[Path | None, typer.Option(metavar="DIRECTORY", help="The new folder to write.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Only say what would be mended; exit 1 if anything.")] = False,
    base: Annotated[str, typer.Option(help="The base model, which tells names and shapes.", show_default=False)] = "",
    checkpoint: options.Checkpoint = "",
    policy: options.PolicyFile = None,
    allow_pickle: options.AllowPickle = False,
    tp: engine_options.Tp = 1,
    dtype: Annotated[
        str, typer.Option(metavar="float32|float16|bfloat16", help="Round the tensors to it.", show_default=False)
    ] = "",
    base_name: Annotated[
        str, typer.Option(metavar="NAME", help="What the config shall call the base.", show_default=False)
    ] = "",
    output_format: options.OutputFormat = Format.HUMAN,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write the report to this file.")] = None,
) -> None:
    """Write a copy of an adapter that a named engine serves as it was trained; say what was changed, and why."""
    from lora_cli.core.deployment import Deployment
    from lora_cli.engines import choose_engine
    from lora_cli.repair import DTYPES
    from lora_cli.validation.repaired import Wish, repair_adapter

    if check == (to is not None):
        raise UsageError("repair writes a copy with --to, or only reports with --check", hint="give one of the two")
    if dtype and dtype not in DTYPES:
        raise UsageError(f"--dtype is one of {', '.join(DTYPES)}")
    if output is not None:
        writable(output)
    settings: Settings = reaching(ctx.obj, None, policy)
    profile, (item,) = choose_engine(engine), from_refs([ref], checkpoint)
    wish = Wish(
        profile,
        base=base_model(base, settings) if base else None,
        base_ref=base or None,
        deployment=Deployment(tp=tp),
        to=to,
        dtype=dtype or None,
        base_name=base_name or None,
        allow_pickle=allow_pickle,
        latest=item.latest,
    )
    found = repair_adapter(item.source, wish, settings)
    if output_format is Format.JSON:
        from lora_cli.render.json_repaired import render_repaired as as_json

        write(as_json(found), output)
    else:
        from lora_cli.render.human.repaired import render_repaired

        wide, coloured = (width(), colour()) if output is None else (DEFAULT_WIDTH, False)
        write(render_repaired(found, wide, check=check, colour=coloured), output)
    raise typer.Exit(_exit_code(found, check=check))


def _exit_code(found: "Repaired", *, check: bool) -> int:
    """1 where it cannot be repaired, or was only to be checked and needs it; 3 where a check lacks the base to tell."""
    if found.refusals or (check and found.changes):
        return Refused.exit_code
    return NotFound.exit_code if check and not found.after.known else 0
