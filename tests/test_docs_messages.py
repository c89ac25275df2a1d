"""What messages and pages point to is there: commands with their options, headings, pages and rules."""

import re
from pathlib import Path

import pytest

from lora_cli.checks import CHECKS
from lora_cli.cli.main import COMMANDS, Command, build_app, load_command
from tests.conftest import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
CODE = sorted((ROOT / "lora_cli").rglob("*.py"))


def flags_of(command: Command) -> set[str]:
    own = {flag for one in command.params for flag in (*one.opts, *one.secondary_opts)}
    return own.union({"--help", "-h"}, *(flags_of(child) for child in getattr(command, "commands", {}).values()))


@pytest.mark.parametrize("files", [*([page] for page in PAGES), CODE], ids=lambda files: files[0].name)
def test_every_option_of_a_shown_command_and_every_rule_and_page_that_is_named_exists(files: list[Path]) -> None:
    text = "\n".join(file.read_text(encoding="utf-8") for file in files).replace("\\\n", " ")
    flags = {name: flags_of(build_app()) | flags_of(load_command(name)) for name in COMMANDS}
    for line, name in re.findall(r"(\blora-cli (?:--?[a-z]\S* )*([a-z-]+)\b[^\n`#\"]*)", text):
        shown = re.findall(r"(?<!\S)--?[a-z][a-z-]*", line.partition(", ")[0])
        assert name not in flags or flags[name].issuperset(shown), line
    assert {rule.code for rule in CHECKS}.issuperset(re.findall(r"\bLC\d{3}\b", text))
    assert all((ROOT / page).exists() for page in re.findall(r"(?<![\w/])docs/[\w-]+\.md", text))


def test_every_link_leads_to_a_file_or_a_heading() -> None:
    for file in (*PAGES, ROOT / "CONTRIBUTING.md"):
        for target, heading in re.findall(r"\]\(([^)#\s:]*)(?:#([^)\s]+))?\)", file.read_text(encoding="utf-8")):
            there = file.parent / target if target else file
            assert there.exists(), f"{file.name}: {target}"
            titles = re.findall(r"^#+ (.*)", there.read_text(encoding="utf-8"), re.MULTILINE) if heading else []
            anchors = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
            assert heading in {"", *anchors}, f"{file.name}: {target}#{heading}"
