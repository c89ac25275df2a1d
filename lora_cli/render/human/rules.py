"""What ``rules`` says to people: the list, or one rule's documentation."""

from collections.abc import Sequence

from lora_cli.render.text import paint, unmarked, wrap
from lora_cli.rules.rule import Rule

HUNDREDS = {
    "LC1": "files",
    "LC2": "config",
    "LC3": "tensors",
    "LC4": "engine",
    "LC5": "values",
    "LC6": "supply chain",
}


def render_rules(rules: Sequence[Rule], width: int, *, colour: bool = False) -> str:
    """All rules by hundreds: code, severity, name, and what each looks for."""
    lines: list[str] = []
    hundred = ""
    for rule in rules:
        if rule.code[:3] != hundred:
            hundred = rule.code[:3]
            lines += [*([""] if lines else []), paint(HUNDREDS.get(hundred, hundred), "bold", colour=colour)]
        lines.append(f"  {rule.code}  {rule.severity.label:<7}  {rule.name}")
        lines += wrap(unmarked(rule.summary), width, " " * 9)
    return "\n".join(lines) + "\n"


def render_rule(rule: Rule, width: int, *, colour: bool = False) -> str:
    """One rule's documentation: what, why it is bad, how to fix it."""
    needs = f"; needs {', '.join(rule.needs)}" if rule.needs else ""
    lines = [paint(f"{rule.code} {rule.name}", "bold", colour=colour), f"{rule.severity.label}{needs}"]
    for paragraph in rule.documentation.split("\n\n"):
        lines += ["", *wrap(unmarked(" ".join(paragraph.split())), width)]
    return "\n".join(lines) + "\n"
