"""``lora-cli rules``: the list of rules, or one rule's documentation."""

from typing import Annotated

import typer

from lora_cli.cli import completion, options
from lora_cli.cli.output import Format, drawn, write
from lora_cli.rules import RULES, find

EXAMPLES = ("lora-cli rules", "lora-cli rules LC301", "lora-cli rules --format json")


def command(
    code: Annotated[
        str,
        typer.Argument(metavar="[CODE]", help="A code, its beginning, or a name.", autocompletion=completion.rules),
    ] = "",
    output_format: options.OutputFormat = Format.HUMAN,
) -> None:
    """List the rules of validate, or explain one."""
    chosen = find(code) if code else RULES
    if output_format is Format.JSON:
        from lora_cli.render.json import render_rules as as_json

        write(as_json(chosen))
        return
    from lora_cli.render.terminal_catalog import rule_parts, rules_parts

    write(drawn(rule_parts(chosen[0]) if code and len(chosen) == 1 else rules_parts(chosen)))
