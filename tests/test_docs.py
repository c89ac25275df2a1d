"""The pages say what commands, checks, engines and documents say now, and are no more than they may be."""

import re
import runpy
from collections.abc import Iterator
from pathlib import Path

import pytest

from lora_cli.cli.main import COMMANDS, Command, build_app, load_command

DOCS = Path(__file__).parents[1] / "docs"


@pytest.mark.parametrize("file", ["cli.md", "rules.md", "engines.md", "manifest.md"])
def test_a_generated_page_is_as_it_would_be_generated_now(file: str) -> None:
    pages = runpy.run_path(str(DOCS / "build.py"))["pages"]()

    assert (DOCS / file).read_text(encoding="utf-8") == pages[file], "run make docs"


def sections(page: str) -> dict[str, str]:
    """The text below each heading of a page, by the heading."""
    parts = re.split(r"^#+ (.*)\n", (DOCS / page).read_text(encoding="utf-8"), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def leaves(command: Command, path: str) -> Iterator[tuple[str, Command]]:
    """Each command that can be run, with the words that name it."""
    children = getattr(command, "commands", {})
    for name, child in children.items():
        yield from leaves(child, f"{path} {name}")
    if not children:
        yield path, command


def test_every_option_of_every_command_stands_in_the_reference() -> None:
    page = sections("cli.md")
    everywhere = page["Global options"]
    commands = [found for name in COMMANDS for found in leaves(load_command(name), f"lora-cli {name}")]
    for path, command in [("Global options", build_app()), *commands]:
        rows = [line for line in (page[path] + everywhere).splitlines() if line.startswith("| `")]
        for parameter in command.params:
            words = [*parameter.opts, *parameter.secondary_opts] if parameter.param_type_name == "option" else []
            assert any(all(re.search(rf"[` ]{word}[`, ]", row) for word in words) for row in rows), (path, words)
    assert len(commands) >= 14


def test_every_schema_is_as_it_would_be_generated_now() -> None:
    folder = DOCS.parent / "manifests" / "schemas"
    schemas = runpy.run_path(str(DOCS / "schemas.py"))["schemas"]()

    assert schemas == {file.name: file.read_text(encoding="utf-8") for file in folder.iterdir()}, "run make docs"


def test_every_link_of_a_page_leads_somewhere() -> None:
    pages = [DOCS.parent / "README.md", DOCS.parent / "CONTRIBUTING.md", *DOCS.glob("*.md")]
    dead = [
        f"{page.name}: {target}"
        for page in pages
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8"))
        if not target.startswith(("http://", "https://", "mailto:")) and not (page.parent / target).exists()
    ]
    assert dead == []


def test_every_metric_is_told_of_and_none_that_there_is_not() -> None:
    files = [*(DOCS.parent / "lora_cli").rglob("*metrics.py"), DOCS.parent / "lora_cli/warm/api.py"]
    code = "".join(path.read_text(encoding="utf-8") for path in files)
    there = set(re.findall(r'"(lora_cli_[a-z_]+)"', code))
    pages = "".join((DOCS / page).read_text(encoding="utf-8") for page in ("warm.md", "plugins.md"))
    told = set(re.findall(r"`(lora_cli_[a-z_]+)", pages)) - {"lora_cli_resolver"}
    assert told == there


def test_the_readme_is_short() -> None:
    assert len((DOCS.parent / "README.md").read_text(encoding="utf-8").splitlines()) <= 100
