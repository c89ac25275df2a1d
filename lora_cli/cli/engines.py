"""``lora-cli engines``: what each engine does with which adapters, or all that one of them does."""

import typer

from lora_cli.cli.output import render_parts, write
from lora_cli.engines import all_profiles, choose_engine
from lora_cli.reports.catalog import human_engine, human_matrix

EXAMPLES = ("lora-cli engines", "lora-cli engines vllm@0.32")


def command(
    name: str = typer.Argument("", metavar="NAME[@VERSION]", help="One engine, for example vllm or vllm@0.32."),
) -> None:
    """List what engines make of what the checks find, or explain one engine."""
    parts = human_engine(choose_engine(name), all_profiles()) if name else human_matrix(all_profiles())
    write(render_parts(parts))
