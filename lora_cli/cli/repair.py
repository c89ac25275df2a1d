"""``lora-cli repair``: an adapter, written so that a named engine serves it right."""

from pathlib import Path
from typing import Annotated

import typer

from lora_cli.cli import completion, engine_options, options
from lora_cli.cli.lineup import base_model, from_refs, reaching
from lora_cli.cli.options import ENGINE, option
from lora_cli.cli.output import writable, write_result
from lora_cli.core.engine_outcome import Deployment
from lora_cli.engines import choose_engine
from lora_cli.errors import NotFound, Refused, UsageError
from lora_cli.render.terminal_repair import repair_parts
from lora_cli.settings import Settings

REPAIR = "Repair"

Engine = Annotated[str, option("--engine", "The engine that will serve it.", ..., ENGINE, **completion.ENGINE)]
EXAMPLES = (
    "lora-cli repair acme/sql --engine vllm --check",
    "lora-cli repair ./adapter --engine sglang --base ./base --to ./repaired",
)


def command(
    ctx: typer.Context,
    ref: Annotated[
        str, typer.Argument(metavar="REF", help="A path or reference.", autocompletion=completion.references)
    ],
    engine: Engine,
    to: Path | None = option("--to DIRECTORY", "Write the copy to this new folder.", None, REPAIR),
    check: bool = option("--check", "Only show what would be changed; exit code 1 if anything.", False, REPAIR),
    base: str = option(
        "--base", "The base model, which has the names and shapes of modules.", "", REPAIR, **completion.REF
    ),
    checkpoint: options.Checkpoint = "",
    policy: options.PolicyFile = None,
    allow_pickle: options.AllowPickle = False,
    tp: engine_options.Tp = 1,
    dtype: str = option("--dtype float32|float16|bfloat16", "Convert the tensors to this type.", "", REPAIR),
    base_name: str = option("--base-name NAME", "Write this as the base model's name.", "", REPAIR),
    output_format: options.OutputFormat = "human",
    output: options.OutputFile = None,
) -> None:
    """Write a copy of an adapter that an engine serves as it was trained, and show what was changed and why."""
    from lora_cli.repair import DTYPES
    from lora_cli.validation.repaired import Wish, repair_adapter

    if check == (to is not None):
        raise UsageError("repair writes a copy with --to, or only reports with --check", hint="give one of the two")
    if dtype and dtype not in DTYPES:
        raise UsageError(f"--dtype is one of {', '.join(DTYPES)}")
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
    write_result(found, output_format, repair_parts(found, check=check), output)
    if found.refusals or (check and found.changes):
        raise typer.Exit(Refused.exit_code)
    # A check that lacks the base cannot tell.
    raise typer.Exit(NotFound.exit_code if check and not found.after.judged.known else 0)
