"""``lora-cli engines``: what each engine does with which adapters, or all that one of them does."""

import typer

from lora_cli.cli import options
from lora_cli.cli.output import write_result
from lora_cli.engines import all_profiles, choose_engine
from lora_cli.render.catalog_report import engines_report

EXAMPLES = ("lora-cli engines", "lora-cli engines vllm@0.32")


def command(
    name: str = typer.Argument(
        "",
        metavar="NAME[@VERSION]",
        help="One engine, for example vllm or vllm@0.32.",
        autocompletion=options.complete_engine,
    ),
    output_format: options.OutputFormat = "human",
) -> None:
    """List what engines make of what the checks find, or explain one engine."""
    chosen = (choose_engine(name),) if name else all_profiles()
    from lora_cli.render.terminal_catalog import engine_parts, matrix_parts

    write_result(
        engines_report(chosen), output_format, engine_parts(chosen[0], all_profiles()) if name else matrix_parts(chosen)
    )
