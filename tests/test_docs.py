"""The generated pages say what the rules and the engines' profiles say now."""

import re
import runpy
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"


@pytest.mark.parametrize("file", ["rules.md", "engines.md", "manifest.md", "policy.md", "settings.md"])
def test_a_generated_page_is_as_it_would_be_generated_now(file: str) -> None:
    pages = runpy.run_path(str(DOCS / "build.py"))["pages"]()

    assert (DOCS / file).read_text(encoding="utf-8") == pages[file], "run make docs"


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
    code = "".join(path.read_text(encoding="utf-8") for path in (DOCS.parent / "lora_cli").rglob("*metrics.py"))
    there = set(re.findall(r'"(lora_cli_[a-z_]+)"', code))
    told = set(re.findall(r"`(lora_cli_[a-z_]+)", (DOCS / "warm.md").read_text(encoding="utf-8")))
    assert told == there
