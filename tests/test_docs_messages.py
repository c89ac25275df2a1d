"""Troubleshooting quotes what the code says, with its exit codes, and every page shows commands that exist."""

import ast
import re
import shlex
from collections.abc import Iterator
from functools import cache

import pytest
import yaml

from lora_cli import errors
from lora_cli.cli.app import COMMANDS, Command, build_app, load_command
from lora_cli.rules import RULES
from tests.conftest import ROOT

DOCS = ROOT / "docs"
PAGE = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
GLOSSARY = (DOCS / "glossary.md").read_text(encoding="utf-8")
RULE_NAMES = {f"{rule.code} {rule.name}" for rule in RULES}
TERMS = {
    "adapter", "base", "snapshot", "blob", "cache", "lease", "lock", "manifest", "policy", "pin", "slot",
    "tier", "proof", "applied", "serves wrong", "canary", "profile", "baseline",
}  # fmt: skip


def text_of(node: ast.AST) -> str | None:
    """A string in the code, each value that is put into it as "…"."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(text_of(part) or "…" for part in node.values)
    return None


def exit_code(node: ast.AST) -> int | None:
    """What a command ends with for the error that this call makes; None where it makes none of ours."""
    kind = (
        getattr(errors, node.func.id, None) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else None
    )
    code = getattr(kind, "exit_code", None)
    return code if isinstance(code, int) else None


@cache
def strings() -> list[tuple[str, int | None]]:
    """Each string of the package but docstrings, with the exit code of the error that is made of it, if one is."""
    found = []
    for file in (ROOT / "lora_cli").rglob("*.py"):
        nodes = list(ast.walk(ast.parse(file.read_text(encoding="utf-8"))))
        docstrings = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
        codes = {
            id(inner): exit_code(node)
            for node in nodes
            if isinstance(node, ast.Call) and node.args and exit_code(node) is not None
            for inner in ast.walk(node.args[0])
        }
        told = (node for node in nodes if id(node) not in docstrings)
        found += [(text, codes.get(id(node))) for node in told if (text := text_of(node))]
    return found


ENTRIES = re.findall(r"^### `([^`]+)`\n(.+?)(?=^#|\Z)", PAGE, re.MULTILINE | re.DOTALL)


def said_with(message: str) -> list[int | None]:
    """The exit code of each string of the package that a quoted message is, None where none is known."""
    pattern = re.compile(".*".join(map(re.escape, filter(None, message.split("…")))), re.DOTALL)
    return [code for text, code in strings() if pattern.search(text)]


def test_there_are_entries_for_what_users_meet_most_and_most_have_a_code_that_is_known() -> None:
    messages = [message for message, _ in ENTRIES if message not in RULE_NAMES]
    assert len(ENTRIES) >= 30
    assert sum(any(said_with(message)) for message in messages) >= len(messages) * 0.6


@pytest.mark.parametrize(("message", "answer"), [pytest.param(*one, id=one[0]) for one in ENTRIES])
def test_a_message_is_one_that_the_code_says_with_that_exit_code(message: str, answer: str) -> None:
    if message in RULE_NAMES:
        return
    found = said_with(message)
    assert found, "no message of the package is like this"
    shown = re.match(r"Exit (\d+)", answer)
    known = {code for code in found if code is not None}
    assert not shown or not known or int(shown[1]) in known


def commands(text: str) -> Iterator[list[str]]:
    """The words of each command of ours that a page shows, in a line of a block or in the text."""
    for line in re.findall(r"^(?:\$ )?(lora-cli .*)$|`(lora-cli [^`]+)`", text.replace("\\\n", " "), re.MULTILINE):
        words = shlex.split("".join(line).partition(" #")[0].replace("…", "X"), posix=True)
        if len(words) > 1 and (words[1] in COMMANDS or words[1].startswith("-")):
            yield words


def flags_of(command: Command) -> set[str]:
    """All flags of a command and those below it."""
    own = {flag for one in command.params for flag in (*one.opts, *one.secondary_opts)}
    return own.union(*(flags_of(child) for child in getattr(command, "commands", {}).values()))


@pytest.mark.parametrize("page", [*sorted(file.name for file in DOCS.glob("*.md")), "../README.md"])
def test_every_option_of_a_shown_command_exists(page: str) -> None:
    everywhere = flags_of(build_app()) | {"--help", "-h"}
    for words in commands((DOCS / page).read_text(encoding="utf-8")):
        known = everywhere | (flags_of(load_command(words[1])) if words[1] in COMMANDS else set())
        flags = [word.partition("=")[0].strip(",;)") for word in words if re.match(r"--?[a-z]", word)]
        assert set(flags) <= known, words


def test_the_table_of_waits_has_their_defaults() -> None:
    rows = re.findall(r"^\| `(\S+)` \| (\S+) \|", PAGE.partition("## Waits")[2], re.MULTILINE)
    reference = (DOCS / "cli.md").read_text(encoding="utf-8") + (DOCS / "settings.md").read_text(encoding="utf-8")
    assert len(rows) == 5
    for name, default in rows:
        key = name.removeprefix("LORA_CLI_").lower()
        (row, *_) = re.findall(rf"^\| `(?:{name}|{key})[ `].*$", reference, re.MULTILINE)
        assert (default.strip("`") in row) if default != "none" else ("default" not in row), name


def test_the_glossary_explains_every_term() -> None:
    terms = {term.lower() for term in re.findall(r"^- \*\*(.+?)\*\*", GLOSSARY, re.MULTILINE)}
    assert terms >= TERMS


def test_links_to_a_heading_lead_to_one() -> None:
    for file in [ROOT / "README.md", *DOCS.glob("*.md")]:
        for target, heading in re.findall(r"\]\(([^)#\s:]*)#([^)\s]+)\)", file.read_text(encoding="utf-8")):
            there = file.parent / target if target else file
            titles = re.findall(r"^#+ (.*)", there.read_text(encoding="utf-8"), re.MULTILINE)
            anchors = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
            assert heading in anchors, f"{file.name}: {target}#{heading}"


def test_the_readme_links_every_page() -> None:
    index = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [file.name for file in DOCS.glob("*.md") if f"(docs/{file.name})" not in index] == ["releasing.md"]


def test_manifests_in_the_pages_are_yaml() -> None:
    for file in DOCS.glob("*.md"):
        for block in re.findall(r"^```yaml\n(.*?)^```", file.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
            assert yaml.safe_load(block), file.name
