"""Values as people read them: plain text at a given width, coloured only when asked."""

from lora_cli.render.human.bench import render_bench
from lora_cli.render.human.inspection import render_inspection
from lora_cli.render.human.loads import render_answers, render_load_reports
from lora_cli.render.human.rules import render_rule, render_rules
from lora_cli.render.human.verdicts import render_checked, render_summary

__all__ = [
    "render_answers",
    "render_bench",
    "render_checked",
    "render_inspection",
    "render_load_reports",
    "render_rule",
    "render_rules",
    "render_summary",
]
