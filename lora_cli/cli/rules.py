"""``lora-cli rules``: the list of rules, or one rule's documentation."""

import typer

from lora_cli.checks import CHECKS, find
from lora_cli.cli import options
from lora_cli.cli.output import write_result
from lora_cli.render.catalog_report import rules_report

EXAMPLES = ("lora-cli rules", "lora-cli rules LC301", "lora-cli rules --format json")


def command(
    code: str = typer.Argument("", metavar="CODE", help="Code, prefix of a code, or name."),
    output_format: options.OutputFormat = "human",
) -> None:
    """List the rules of validate, or explain one."""
    report = rules_report(find(code) if code else CHECKS)
    from lora_cli.render.terminal_catalog import rule_parts, rules_parts

    parts = rule_parts(report.rules[0]) if code and len(report.rules) == 1 else rules_parts(report.rules)
    write_result(report, output_format, parts)
