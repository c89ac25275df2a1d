"""``lora-cli rules``: the list of rules, or one rule's documentation."""

import typer

from lora_cli.checks import CHECKS, find
from lora_cli.cli import options
from lora_cli.cli.output import render_parts, write
from lora_cli.render.catalog_report import rules_report
from lora_cli.render.json import to_json

EXAMPLES = ("lora-cli rules", "lora-cli rules LC301", "lora-cli rules --format json")


def command(
    code: str = typer.Argument(
        "", metavar="CODE", help="Code, prefix of a code, or name.", autocompletion=options.complete_rule
    ),
    output_format: options.OutputFormat = "human",
) -> None:
    """List the rules of validate, or explain one."""
    report = rules_report(find(code) if code else CHECKS)
    if output_format == "json":
        write(to_json(report))
        return
    from lora_cli.render.terminal_catalog import rule_parts, rules_parts

    write(render_parts(rule_parts(report.rules[0]) if code and len(report.rules) == 1 else rules_parts(report.rules)))
