"""``lora-cli repair``: an adapter, written so that a named engine serves it right."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lora_cli.cli import completion, engine_options, options
from lora_cli.cli.lineup import base_model, from_refs, reaching
from lora_cli.cli.options import ENGINE, option
from lora_cli.cli.output import Format, drawn, writable, write
from lora_cli.errors import NotFound, Refused, UsageError
from lora_cli.settings import Settings

if TYPE_CHECKING:
    from lora_cli.validation.repair_report import RepairReport


repair_option = partial(option, panel="Repair")

Engine = Annotated[
    str,
    option(
        "--engine",
        panel=ENGINE,
        metavar="NAME[@VERSION]",
        help="The engine that will serve it.",
        autocompletion=completion.engines,
    ),
]
To = Annotated[Path | None, repair_option("--to", metavar="DIRECTORY", help="Write the copy to this new folder.")]
Check = Annotated[bool, repair_option("--check", help="Only show what would be changed; exit code 1 if anything.")]
RepairBase = Annotated[
    str,
    repair_option(
        "--base",
        metavar="REF",
        help="The base model, which has the names and shapes of modules.",
        autocompletion=completion.references,
    ),
]
Dtype = Annotated[
    str, repair_option("--dtype", metavar="float32|float16|bfloat16", help="Convert the tensors to this type.")
]
BaseName = Annotated[str, repair_option("--base-name", metavar="NAME", help="Write this as the base model's name.")]
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
    to: To = None,
    check: Check = False,
    base: RepairBase = "",
    checkpoint: options.Checkpoint = "",
    policy: options.PolicyFile = None,
    allow_pickle: options.AllowPickle = False,
    tp: engine_options.Tp = 1,
    dtype: Dtype = "",
    base_name: BaseName = "",
    output_format: options.OutputFormat = Format.HUMAN,
    output: options.OutputFile = None,
) -> None:
    """Write a copy of an adapter that an engine serves as it was trained, and show what was changed and why."""
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
        from lora_cli.render.json import encoded

        write(encoded(found), output)
    else:
        from lora_cli.render.terminal_repair import repair_parts

        write(drawn(repair_parts(found, check=check), output), output)
    raise typer.Exit(_exit_code(found, check=check))


def _exit_code(found: "RepairReport", *, check: bool) -> int:
    """1 where it cannot be repaired, or was only to be checked and needs it; 3 where a check lacks the base to tell."""
    if found.refusals or (check and found.changes):
        return Refused.exit_code
    return NotFound.exit_code if check and not found.after.judged.known else 0
