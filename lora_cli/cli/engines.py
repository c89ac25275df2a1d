"""``lora-cli engines``: what each engine does with which feature of an adapter, or all that one of them does."""

from typing import Annotated

import typer

from lora_cli.cli import completion, options
from lora_cli.cli.output import Format, drawn, write

EXAMPLES = ("lora-cli engines", "lora-cli engines vllm@0.31")


def command(
    name: Annotated[
        str,
        typer.Argument(
            metavar="[NAME[@VERSION]]",
            help="One engine, for example vllm or vllm@0.31.",
            autocompletion=completion.engines,
        ),
    ] = "",
    output_format: options.OutputFormat = Format.HUMAN,
) -> None:
    """List what engines do with which features of adapters, or explain one engine."""
    from lora_cli.engines import all_profiles, choose_engine

    chosen = (choose_engine(name),) if name else all_profiles()
    if output_format is Format.JSON:
        from lora_cli.render.json_engines import render_engines as as_json

        write(as_json(chosen))
        return
    from lora_cli.render.terminal_catalog import engine_parts, matrix_parts

    write(drawn(engine_parts(chosen[0]) if name else matrix_parts(chosen)))
