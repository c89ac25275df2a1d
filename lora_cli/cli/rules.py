"""``lora-cli rules``: the list of rules, or one rule's documentation."""

import typer

from lora_cli.checks import CHECKS, find
from lora_cli.cli import options
from lora_cli.cli.output import write_result
from lora_cli.reports.catalog import human_rule, human_rules, rules_document

EXAMPLES = ("lora-cli rules", "lora-cli rules LC301", "lora-cli rules --format json")


def command(
    code: str = typer.Argument("", metavar="CODE", help="Code, prefix of a code, or name."),
    output_format: options.OutputFormat = "human",
) -> None:
    """List the rules of validate, or explain one."""
    rules = find(code) if code else CHECKS
    parts = human_rule(rules[0]) if code and len(rules) == 1 else human_rules(rules)
    write_result(rules_document(rules), output_format, parts)
